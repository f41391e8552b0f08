// Products of bfloat16, tile by tile.
#include "product_loops.h"

#ifdef PRODUCT_LOOPS

#include "product_blocks.h"

namespace lorafit {
namespace {

/**
 * Most pairs along `inner` that are packed at once: half a MiB for 64 columns, which fits a core's cache of
 * at least 1 MiB.
 */
constexpr int64_t kMostPairs = 2048;
/** Pairs along `inner` that are packed together, of several panels. */
constexpr int64_t kPairsOfPanels = 512;
/**
 * Rows of `left` that run along all panels of a tile before the next rows: few, so that results are read and
 * written row by row.
 */
constexpr int64_t kRowsOfPanels = 12;
/** Rows of `left` that are packed at once if they are contiguous. */
constexpr int64_t kPackedRows = 48;
/** Rows whose sums are held in memory if `inner` is split into parts. */
constexpr int64_t kRowsOfSums = 480;

constexpr int64_t kRightBytes = kMostPairs * kPanelColumns * kWordBytes;
constexpr int64_t kLeftBytes = kMostPairs * kPackedRows * kWordBytes;
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

LeftRows left_rows(const MatrixView& left, const Part& part, char* room) {
  const uint16_t* start = left.start + part.first_row * left.row_stride + part.first_step * left.column_stride;
  if (left.column_stride == 1)
    return {reinterpret_cast<const char*>(start), 2 * left.row_stride, kWordBytes, part.steps % 2 == 1};
  pack_side_by_side(start, left.column_stride, part.rows, part.steps, {room, kPackedRows / kLanes});
  return {room, kWordBytes, kPackedRows * kWordBytes, false};
}

/**
 * Packs the part's panels one after the other, then multiplies a few rows at a time along all panels. Sums
 * are held in the same order.
 */
void multiply_part(const Product& product, const Part& part, const Room& room) {
  const bool first = part.first_step == 0, last = part.first_step + part.steps == product.inner;
  const int64_t pairs = (part.steps + 1) / 2, panel_bytes = pairs * kPanelColumns * kWordBytes;
  const auto panel_at = [&](int64_t column) {
    const int64_t columns = smaller(kPanelColumns, part.columns - column);
    return Panel{room.right + column / kPanelColumns * panel_bytes, (columns + kLanes - 1) / kLanes};
  };
  for (int64_t column = 0; column < part.columns; column += kPanelColumns) {
    Part of_panel = part;
    of_panel.first_column += column;
    of_panel.columns = smaller(kPanelColumns, part.columns - column);
    pack_right(product.right, of_panel, panel_at(column));
  }
  const MatrixView& into = product.into;
  const bool packs = product.left.column_stride != 1;
  const int64_t rows_at_a_time = packs ? kPackedRows : part.columns > kPanelColumns ? kRowsOfPanels : part.rows;
  for (int64_t row = 0; row < part.rows; row += rows_at_a_time) {
    Part of_rows = part;
    of_rows.first_row += row;
    of_rows.rows = smaller(rows_at_a_time, part.rows - row);
    const LeftRows left = left_rows(product.left, of_rows, room.left);
    for (int64_t column = 0; column < part.columns; column += kPanelColumns) {
      const Panel right = panel_at(column);
      uint16_t* to = into.start + of_rows.first_row * into.row_stride + part.first_column + column;
      const Sums sums{to,
                      into.row_stride,
                      smaller(kPanelColumns, part.columns - column),
                      product.alpha,
                      product.beta,
                      room.sums + row * kPanelColumns,
                      first,
                      last};
      kMultiplyRows[right.vectors - 1](left, of_rows.rows, right.start, left.odd ? pairs - 1 : pairs, sums);
    }
  }
}

} // namespace

int64_t tile_room_bytes() { return kRightBytes + kLeftBytes + kSumsBytes; }

int64_t panels_of_tile(int64_t inner) {
  const int64_t panels = 2 * kPairsOfPanels / inner;
  return panels > 1 ? panels : 1;
}

void multiply_tile(const Product& product, const ProductTile& tile, char* memory) {
  const int64_t parts = (product.inner + 2 * kMostPairs - 1) / (2 * kMostPairs);
  const int64_t steps_of_part = ((product.inner + parts - 1) / parts + 31) / 32 * 32;
  const int64_t rows_of_part = parts > 1 ? kRowsOfSums : tile.rows; // with several parts, a tile is one panel
  char* const left = memory + kRightBytes;
  const Room room{memory, left, reinterpret_cast<float*>(left + kLeftBytes)};
  for (int64_t row = 0; row < tile.rows; row += rows_of_part) {
    const int64_t rows = smaller(rows_of_part, tile.rows - row);
    for (int64_t step = 0; step < product.inner; step += steps_of_part) {
      const int64_t steps = smaller(steps_of_part, product.inner - step);
      multiply_part(product, {tile.first_row + row, rows, tile.first_column, tile.columns, step, steps}, room);
    }
  }
}

} // namespace lorafit

#else

namespace lorafit {

// Never called: without PRODUCT_LOOPS, multiplies_pairs() is false.
int64_t panels_of_tile(int64_t) { return 1; }
int64_t tile_room_bytes() { return 0; }
void multiply_tile(const Product&, const ProductTile&, char*) {}

} // namespace lorafit

#endif
