// Tiles of causal attention in bfloat16 as one pass over query rows. Scores, softmax and values of a few rows
// are computed while they are in a core's cache.
#include "product_loops.h"

#include "loop_chunks.h"
#include "softmax_rows.h"

#ifdef MATRIX_UNIT
#include "tile_blocks.h"
#else
#include "pair_blocks.h"
#endif

namespace lorafit {
namespace {

using Element = uint16_t;

/**
 * Keys or values of a head, packed in whole panels. Columns are keys, or features with pairs of keys along
 * them.
 */
struct Panels {
  char* start;
  int64_t inner;
  Panel of(int64_t column) const {
    const int64_t pairs = pairs_of(inner, kPanelPairs);
    return {start + column / kPanelColumns * pairs * kPanelColumns * kWordBytes, kPanelColumns / kLanes, pairs};
  }
};

/**
 * Computes into = left right for some rows, from the first `columns` columns and first `inner` steps of the
 * panels. left: rows of left_width.
 */
void multiply_rows_by(
    Element* into, int64_t into_width, const Element* left, int64_t left_width, int64_t rows, const Panels& right,
    int64_t columns, int64_t inner) {
  alignas(64) char room[left_room_bytes(kRowsOfScores, 1)];
  const LeftRows of_left = left_rows({const_cast<Element*>(left), left_width, 1}, rows, inner, false, room);
  for (int64_t column = 0; column < columns; column += kPanelColumns) {
    const Sums sums{into + column, into_width, smaller(kPanelColumns, columns - column), 1, 0, nullptr, true, true};
    multiply_along(of_left, rows, right.of(column), inner, sums);
  }
}

// pack_columns(out, x, rows, width, stride): packs rows of x, `stride` elements apart, as columns of panels.
// Unit: a panel.
void pack_columns(const LoopValue* v, int64_t begin, int64_t end) {
  const int64_t rows = v[2].whole, width = v[3].whole, stride = v[4].whole;
  const Panels panels{pointer<char>(v[0]), width};
  for (int64_t first = begin * kPanelColumns; first < smaller(rows, end * kPanelColumns); first += kPanelColumns)
    pack_apart(pointer<Element>(v[1]) + first * stride, stride, smaller(kPanelColumns, rows - first), width,
               panels.of(first));
}

// pack_pairs(out, x, rows, width, stride): packs pairs of rows of x along panels of its columns. Unit: a
// panel.
void pack_pairs(const LoopValue* v, int64_t begin, int64_t end) {
  const int64_t rows = v[2].whole, width = v[3].whole, stride = v[4].whole;
  const Panels panels{pointer<char>(v[0]), rows};
  for (int64_t first = begin * kPanelColumns; first < smaller(width, end * kPanelColumns); first += kPanelColumns)
    pack_side_by_side(pointer<Element>(v[1]) + first, stride, smaller(kPanelColumns, width - first), rows,
                      panels.of(first));
}

/** A tile in both directions: rows of `heads` query heads each. Row r sees start + r / heads + 1 keys. */
struct Tile {
  Element* weights; // (rows, keys)
  int64_t keys, heads, start, width, all_keys;
  float scale;
  /** Returns the number of keys that the last of these rows sees. */
  int64_t seen(int64_t row, int64_t rows) const { return start + (row + rows - 1) / heads + 1; }
  /** Writes the softmax of some rows' scores into `weights`. query: (rows, width). */
  void make_weights(const Element* query, const Panels& key_columns, int64_t row, int64_t rows) const {
    multiply_rows_by(weights + row * keys, keys, query + row * width, width, rows, key_columns, seen(row, rows), width);
    for (int64_t each = row; each < row + rows; ++each) {
      const int64_t seen_by_row = seen(each, 1);
      softmax_row(weights + each * keys, seen_by_row, scale);
      __builtin_memset(weights + each * keys + seen_by_row, 0, 2 * (keys - seen_by_row));
    }
  }
};

/** Reads the tile's numbers, which follow its tensors among the arguments. */
Tile tile_of(const LoopValue& weights, const LoopValue* numbers) {
  return {pointer<Element>(weights), numbers[0].whole, numbers[1].whole, numbers[2].whole,
          numbers[3].whole, numbers[4].whole, numbers[5].number};
}

// causal_tile(weights, out, query, key columns, value pairs, keys, heads, start, width, all keys, scale):
// writes softmax(scale query key^T), (rows, keys), into weights, and weights value, (rows, width), into out.
void causal_tile(const LoopValue* v, int64_t begin, int64_t end) {
  const Unit unit;
  const Tile tile = tile_of(v[0], v + 5);
  const Panels key_columns{pointer<char>(v[3]), tile.width};
  const Panels value_pairs{pointer<char>(v[4]), tile.all_keys};
  for (int64_t row = begin; row < end; row += kRowsOfScores) {
    const int64_t rows = smaller(kRowsOfScores, end - row);
    tile.make_weights(pointer<Element>(v[2]), key_columns, row, rows);
    multiply_rows_by(pointer<Element>(v[1]) + row * tile.width, tile.width, tile.weights + row * tile.keys, tile.keys,
                     rows, value_pairs, tile.width, tile.seen(row, rows));
  }
}

// causal_tile_backward(weights, score gradients, query gradients, query, out gradients, key columns, value
// columns, key pairs, keys, heads, start, width, all keys, scale): writes weights as causal_tile does, and
// the gradients of scores, (rows, keys), and of the query, (rows, width).
void causal_tile_backward(const LoopValue* v, int64_t begin, int64_t end) {
  const Unit unit;
  const Tile tile = tile_of(v[0], v + 8);
  Element *d_scores = pointer<Element>(v[1]), *d_query = pointer<Element>(v[2]), *d_out = pointer<Element>(v[4]);
  const Panels key_columns{pointer<char>(v[5]), tile.width};
  const Panels value_columns{pointer<char>(v[6]), tile.width};
  const Panels key_pairs{pointer<char>(v[7]), tile.all_keys};
  for (int64_t row = begin; row < end; row += kRowsOfScores) {
    const int64_t rows = smaller(kRowsOfScores, end - row), seen = tile.seen(row, rows);
    tile.make_weights(pointer<Element>(v[3]), key_columns, row, rows);
    Element* d_rows = d_scores + row * tile.keys;
    multiply_rows_by(
        d_rows, tile.keys, d_out + row * tile.width, tile.width, rows, value_columns, seen, tile.width);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t seen_by_row = tile.seen(row + i, 1);
      Element* d_row = d_rows + i * tile.keys;
      softmax_row_backward(d_row, tile.weights + (row + i) * tile.keys, seen_by_row, tile.scale);
      __builtin_memset(d_row + seen_by_row, 0, 2 * (tile.keys - seen_by_row));
    }
    multiply_rows_by(d_query + row * tile.width, tile.width, d_rows, tile.keys, rows, key_pairs, tile.width, seen);
  }
}

#define OF_PAIRS(loop) \
  { #loop, loop, nullptr, nullptr }

constexpr NamedLoop kLoops[] = {
    OF_PAIRS(pack_columns),
    OF_PAIRS(pack_pairs),
    OF_PAIRS(causal_tile),
    OF_PAIRS(causal_tile_backward),
    {nullptr, nullptr, nullptr, nullptr},
};

} // namespace

const NamedLoop* ATTENTION() { return kLoops; }

} // namespace lorafit
