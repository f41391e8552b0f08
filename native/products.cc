#include "products.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "cpu_kernels.h"
#include "product_loops.h"

namespace lorafit {
namespace {

using at::Tensor;
using c10::IValue;

/** Multiplications that make waking a thread worthwhile: some 10 us. */
constexpr int64_t kProductsOfThread = 1 << 21;
/** Tiles per thread: enough that a delayed thread keeps the others waiting only briefly. */
constexpr int64_t kTilesOfThread = 4;
/** Least rows of a tile: each tile packs its columns again. */
constexpr int64_t kLeastRows = 96;

bool lies_side_by_side(const Tensor& matrix, int64_t dim) { return matrix.stride(dim) == 1 || matrix.size(dim) == 1; }

bool is_matrix(const Tensor& matrix) {
  return matrix.dim() == 2 && matrix.scalar_type() == at::kBFloat16 && matrix.layout() == at::kStrided &&
         !matrix.requires_grad() && (lies_side_by_side(matrix, 0) || lies_side_by_side(matrix, 1));
}

/** Returns a view with one stride of 1; a dimension with a single element may count as contiguous. */
MatrixView view_of(const Tensor& matrix) {
  auto* start = static_cast<uint16_t*>(matrix.mutable_data_ptr());
  if (lies_side_by_side(matrix, 1)) return {start, matrix.stride(0), 1};
  return {start, 1, matrix.stride(1)};
}

MatrixView transposed(const MatrixView& matrix) {
  return {matrix.start, matrix.column_stride, matrix.row_stride};
}

/** Makes the product, transposed if needed to make the columns of the result contiguous. */
Product product_of(const Tensor& into, const Tensor& left, const Tensor& right, float alpha, float beta) {
  const int64_t rows = left.size(0), columns = right.size(1), inner = left.size(1);
  if (lies_side_by_side(into, 1))
    return {view_of(into), view_of(left), view_of(right), rows, columns, inner, alpha, beta};
  return {transposed(view_of(into)), transposed(view_of(right)), transposed(view_of(left)), columns, rows, inner,
          alpha, beta};
}

struct Free {
  void operator()(char* room) const { std::free(room); }
};
using RoomOfThread = std::unique_ptr<char, Free>;

/** Returns working memory for each of so many threads, kept by the calling thread. */
const std::vector<RoomOfThread>& rooms_of(int threads, const ProductLoops& loops) {
  thread_local std::vector<RoomOfThread> rooms;
  thread_local int64_t room_bytes = 0;
  if (loops.room_bytes > room_bytes) rooms.clear();
  room_bytes = std::max(room_bytes, loops.room_bytes);
  while (rooms.size() < static_cast<size_t>(threads)) {
    RoomOfThread room(static_cast<char*>(std::aligned_alloc(64, (room_bytes + 63) / 64 * 64)));
    TORCH_CHECK(room, "no memory for a product's panels");
    rooms.push_back(std::move(room));
  }
  return rooms;
}

/** The division of a product into tiles. */
struct Cut {
  int64_t columns, column_tiles, rows, row_tiles;
};

/** Cuts a product into enough tiles to keep all threads busy, if possible a multiple of the threads. */
Cut cut_of(const Product& product, int threads, const ProductLoops& loops) {
  const int64_t panels = (product.columns + kPanelColumns - 1) / kPanelColumns;
  const int64_t together = std::min(panels, loops.panels_of_tile(product.inner));
  const int64_t column_tiles = (panels + together - 1) / together;
  const int64_t most = std::max<int64_t>(1, product.rows / kLeastRows);
  int64_t row_tiles = threads == 1 ? 1 : std::min(most, (kTilesOfThread * threads + column_tiles - 1) / column_tiles);
  while (row_tiles < most && row_tiles * column_tiles % threads != 0) ++row_tiles;
  return {(panels + column_tiles - 1) / column_tiles * kPanelColumns, column_tiles,
          (product.rows + row_tiles - 1) / row_tiles, row_tiles};
}

void multiply(const Product& product) {
  const bool alone = product.rows * product.columns * product.inner < 2 * kProductsOfThread;
  const int threads = alone ? 1 : at::get_num_threads();
  const ProductLoops& loops = *product_loops();
  const std::vector<RoomOfThread>& rooms = rooms_of(threads, loops);
  const Cut cut = cut_of(product, threads, loops);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t index = 0; index < cut.column_tiles * cut.row_tiles; ++index) {
    const int64_t row = index % cut.row_tiles * cut.rows, column = index / cut.row_tiles * cut.columns;
    const ProductTile tile{
        row, std::min(cut.rows, product.rows - row), column, std::min(cut.columns, product.columns - column)};
    if (tile.rows > 0 && tile.columns > 0) loops.multiply_tile(product, tile, rooms[omp_get_thread_num()].get());
  }
}

/** Whether the called operator has a replacement. */
thread_local bool has_stand_in = false;

/** Returns whether these can be multiplied, and by our own kernel. */
bool are_factors(const Tensor& left, const Tensor& right) {
  return has_stand_in && product_loops() && is_matrix(left) && is_matrix(right) && left.size(1) == right.size(0) &&
         left.numel() > 0 && right.numel() > 0;
}

bool mm(std::vector<IValue>& stack) {
  const Tensor left = stack[0].toTensor(), right = stack[1].toTensor();
  if (!left.is_cpu() || !right.is_cpu() || !are_factors(left, right)) return false;
  Tensor out = at::empty({left.size(0), right.size(1)}, left.options());
  multiply(product_of(out, left, right, 1, 0));
  stack.assign(1, IValue(std::move(out)));
  return true;
}

bool addmm_(std::vector<IValue>& stack) {
  const Tensor into = stack[0].toTensor(), left = stack[1].toTensor(), right = stack[2].toTensor();
  if (!into.is_cpu() || !left.is_cpu() || !right.is_cpu() || !multiplies(into, left, right)) return false;
  const float beta = stack[3].toScalar().toFloat(), alpha = stack[4].toScalar().toFloat();
  multiply(product_of(into, left, right, alpha, beta));
  stack.assign(1, IValue(into));
  return true;
}

} // namespace

Called::Called(StandIn stand_in) { has_stand_in = stand_in != nullptr; }
Called::~Called() { has_stand_in = false; }

bool multiplies(const Tensor& into, const Tensor& left, const Tensor& right) {
  return are_factors(left, right) && is_matrix(into) && into.size(0) == left.size(0) &&
         into.size(1) == right.size(1);
}

StandIn stand_in_for(const std::string& name) {
  if (name == "aten::mm") return mm;
  if (name == "aten::addmm_") return addmm_;
  return nullptr;
}

} // namespace lorafit
