// Products of bfloat16, tile by tile.
#include "product_loops.h"

#ifdef MATRIX_UNIT
#include "tile_blocks.h"
#else
#include "pair_blocks.h"
#endif

namespace lorafit {
namespace {

/** Rows whose sums are held in memory if `inner` is split into parts. */
constexpr int64_t kRowsOfSums = 480;

constexpr int64_t kRightPairs = kMostPairs > kPairsOfPanels ? kMostPairs : kPairsOfPanels;
constexpr int64_t kRightBytes = kRightPairs * kPanelColumns * kWordBytes;
constexpr int64_t kLeftBytes = left_room_bytes(kPackedRows, 2 * kMostPairs);
constexpr int64_t kSumsBytes = kRowsOfSums * kPanelColumns * 4;

/** Some rows and columns of a product, and some steps along its `inner`. */
struct Part {
  int64_t first_row, rows, first_column, columns, first_step, steps;
};

/** A thread's working memory. */
struct Room {
  char *right, *left;
  float* sums;
};

void pack_right(const MatrixView& right, const Part& part, const Panel& panel) {
  const uint16_t* from =
      right.start + part.first_step * right.row_stride + part.first_column * right.column_stride;
  if (right.column_stride == 1) pack_side_by_side(from, right.row_stride, part.columns, part.steps, panel);
  else pack_apart(from, right.column_stride, part.columns, part.steps, panel);
}

/** Returns where the matrix has the element in this row and column. */
MatrixView part_of(const MatrixView& matrix, int64_t row, int64_t column) {
  return {matrix.start + row * matrix.row_stride + column * matrix.column_stride, matrix.row_stride,
          matrix.column_stride};
}

/**
 * Packs the part's panels one after the other, then multiplies a few rows at a time along all panels. Sums
 * are held in the same order.
 */
void multiply_part(const Product& product, const Part& part, const Room& room) {
  const bool first = part.first_step == 0, last = part.first_step + part.steps == product.inner;
  const int64_t pairs = pairs_of(part.steps, kPanelPairs), panel_bytes = pairs * kPanelColumns * kWordBytes;
  const auto panel_at = [&](int64_t column) {
    const int64_t columns = smaller(kPanelColumns, part.columns - column);
    return Panel{room.right + column / kPanelColumns * panel_bytes, (columns + kLanes - 1) / kLanes, pairs};
  };
  for (int64_t column = 0; column < part.columns; column += kPanelColumns) {
    Part of_panel = part;
    of_panel.first_column += column;
    of_panel.columns = smaller(kPanelColumns, part.columns - column);
    pack_right(product.right, of_panel, panel_at(column));
  }
  const MatrixView& into = product.into;
  const bool packs = product.left.column_stride != 1, wide = part.columns > kPanelColumns;
  const int64_t rows_at_a_time = packs ? kPackedRows : wide ? kRowsOfPanels : part.rows;
  for (int64_t row = 0; row < part.rows; row += rows_at_a_time) {
    const int64_t rows = smaller(rows_at_a_time, part.rows - row), first_row = part.first_row + row;
    const LeftRows left =
        left_rows(part_of(product.left, first_row, part.first_step), rows, part.steps, wide, room.left);
    for (int64_t column = 0; column < part.columns; column += kPanelColumns) {
      const Sums sums{part_of(into, first_row, part.first_column + column).start,
                      into.row_stride,
                      smaller(kPanelColumns, part.columns - column),
                      product.alpha,
                      product.beta,
                      room.sums + row * kPanelColumns,
                      first,
                      last};
      multiply_along(left, rows, panel_at(column), part.steps, sums);
    }
  }
}

int64_t panels_of_tile(int64_t inner) {
  const int64_t panels = kPairsOfPanels / pairs_of(inner, kPanelPairs);
  return panels > 1 ? panels : 1;
}

void multiply_tile(const Product& product, const ProductTile& tile, char* memory) {
  const int64_t parts = (product.inner + 2 * kMostPairs - 1) / (2 * kMostPairs);
  const int64_t steps_of_part = ((product.inner + parts - 1) / parts + 31) / 32 * 32;
  const int64_t rows_of_part = parts > 1 ? kRowsOfSums : tile.rows; // with several parts, a tile is one panel
  char* const left = memory + kRightBytes;
  const Room room{memory, left, reinterpret_cast<float*>(left + kLeftBytes)};
  const Unit unit;
  for (int64_t row = 0; row < tile.rows; row += rows_of_part) {
    const int64_t rows = smaller(rows_of_part, tile.rows - row);
    for (int64_t step = 0; step < product.inner; step += steps_of_part) {
      const int64_t steps = smaller(steps_of_part, product.inner - step);
      multiply_part(product, {tile.first_row + row, rows, tile.first_column, tile.columns, step, steps}, room);
    }
  }
}

} // namespace

const ProductLoops& PRODUCTS() {
  static constexpr ProductLoops kLoops{
      panels_of_tile, kRightBytes + kLeftBytes + kSumsBytes, multiply_tile, kPanelPairs};
  return kLoops;
}

} // namespace lorafit
