// The loops of a product of bfloat16 matrices over raw memory, for processors that multiply pairs of bfloat16
// (AVX512-BF16) or have a matrix unit (AMX). product_loops.cc and attention_loops.cc are compiled once for
// each (Makefile).
#pragma once

#include "cpu_loops.h"

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

/** A part of a product that one thread computes; it spans at most panels_of_tile panels. */
struct ProductTile {
  int64_t first_row, rows, first_column, columns;
};

/** The loops of products and of attention for a kind of processor. */
struct ProductLoops {
  /**
   * Returns the most panels in a tile. Narrow panels, of a short `inner`, are combined, so that rows are read
   * and written in longer pieces.
   */
  int64_t (*panels_of_tile)(int64_t inner);
  /** Bytes of working memory, aligned to 64, that `multiply_tile` needs. */
  int64_t room_bytes;
  /**
   * Multiplies a tile. Sums are in float32, over `inner` in ascending order: results depend neither on tiles
   * nor on threads.
   */
  void (*multiply_tile)(const Product& product, const ProductTile& tile, char* room);
  /** The pairs of a panel, along `inner`, are a multiple of this. */
  int64_t panel_pairs;
};

const ProductLoops& products_avx512bf16();
const ProductLoops& products_amx();
/** Return further loops of CPU kernels, for attention; an entry without a name ends the table. */
const NamedLoop* attention_avx512bf16();
const NamedLoop* attention_amx();

} // namespace lorafit
