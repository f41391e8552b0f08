// The loops of a product of bfloat16 matrices over raw memory, for processors that multiply pairs of bfloat16
// (AVX512-BF16).
#pragma once

#include <stdint.h>

namespace lorafit {

/** A matrix of bfloat16; one of its strides, in elements, is 1. */
struct MatrixView {
  uint16_t* start;
  int64_t row_stride, column_stride;
};

/**
 * A product into = alpha left right + beta into. left: (rows, inner), right: (inner, columns), into: (rows,
 * columns) with contiguous columns.
 */
struct Product {
  MatrixView into, left, right;
  int64_t rows, columns, inner;
  float alpha, beta;
};

/** Columns of a panel, which are multiplied at once. */
constexpr int64_t kPanelColumns = 64;
/**
 * Returns the most panels in a tile. Narrow panels, of a short `inner`, are combined, so that rows are read
 * and written in longer pieces.
 */
int64_t panels_of_tile(int64_t inner);

/** A part of a product that one thread computes; it spans at most panels_of_tile panels. */
struct ProductTile {
  int64_t first_row, rows, first_column, columns;
};

/** Returns the bytes of working memory, aligned to 64, that `multiply_tile` needs. */
int64_t tile_room_bytes();
/**
 * Multiplies a tile. Sums are in float32, over `inner` in ascending order: results depend neither on tiles
 * nor on threads.
 */
void multiply_tile(const Product& product, const ProductTile& tile, char* room);

} // namespace lorafit
