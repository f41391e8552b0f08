/** CUDA C++ of the kernels that read weights of 4 and 8 bits. sources.ts describes the common parts. */

/**
 * The 16 values of NF4: quantiles of a normal distribution, scaled to [-1, 1]. Source: arXiv:2305.14314,
 * appendix E.
 */
// biome-ignore format: four a line
export const NF4_VALUES = [
  -1.0,                 -0.6961928009986877, -0.5250730514526367,  -0.39491748809814453,
  -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
  0.07958029955625534,  0.16093020141124725, 0.24611230194568634,  0.33791524171829224,
  0.44070982933044434,  0.5626170039176941,  0.7229568362236023,   1.0,
] as const;

const NF4_LITERALS = NF4_VALUES.map((value) => `${value.toFixed(9)}f`).join(", ");

/** Rows of W, and rows of x, that a block of a product processes. */
export const PRODUCT_ROWS = 16;
export const PRODUCT_TOKENS = 8;
/** Rows and columns of the square that a block transposes. */
export const TURN_EDGE = 64;

/**
 * A matrix W, (rows, columns), in 4 or 8 bits as the kernels read it. W is a window of an NF4 matrix of
 * `width` columns, or int8 rows with a stride between them.
 * Eight columns are read at once if their alignment allows it, else one by one.
 */
const MATRICES = `
__device__ inline void fill_nf4(float* nf4) {
  static constexpr float values[16] = {${NF4_LITERALS}};
  if (threadIdx.x < 16) nf4[threadIdx.x] = values[threadIdx.x];
}

struct Nf4 {
  struct Eight { unsigned codes; byte magnitude; float scale; };
  const byte* codes;
  const byte* absmax;
  const float* scales;
  float offset;
  int64 width, row, column;
  const float* nf4;
  const float* table;
  __device__ unsigned long long number(int64 r, int64 c) const { return (row + r) * width + column + c; }
  /** Whether eight columns, from a multiple of eight on, are in one block and can be read at once. */
  __device__ bool whole() const { return width % 8 == 0 && column % 8 == 0 && (unsigned long long)codes % 4 == 0; }
  __device__ Eight eight_at(int64 r, int64 c) const {
    const unsigned long long at = number(r, c), block = at / 64;
    return {*(const unsigned*)(codes + at / 2), absmax[block], scales[block / 256]};
  }
  __device__ void values_of(Eight eight, int64, float* w) const {
    const float factor = table[eight.magnitude] * eight.scale + offset;
    for (int i = 0; i < 8; ++i) w[i] = nf4[eight.codes >> (i / 2 * 8 + (i % 2 == 0 ? 4 : 0)) & 15] * factor;
  }
  __device__ float value_at(int64 r, int64 c) const {
    const unsigned long long at = number(r, c), block = at / 64;
    const byte pair = codes[at / 2];
    return nf4[at % 2 == 0 ? pair >> 4 : pair & 15] * (table[absmax[block]] * scales[block / 256] + offset);
  }
};

struct Int8 {
  struct Eight { unsigned long long codes; };
  const signed char* codes;
  const float* scales;
  float unit;
  int64 stride;
  __device__ bool whole() const { return stride % 8 == 0 && (unsigned long long)codes % 8 == 0; }
  __device__ Eight eight_at(int64 r, int64 c) const { return {*(const unsigned long long*)(codes + r * stride + c)}; }
  __device__ void values_of(Eight eight, int64 r, float* w) const {
    const float factor = scales[r] * unit;
    for (int i = 0; i < 8; ++i) w[i] = (signed char)(eight.codes >> 8 * i & 255) * factor;
  }
  __device__ float value_at(int64 r, int64 c) const { return codes[r * stride + c] * (scales[r] * unit); }
};
`;

/** Converts whole windows. out: (rows, columns); a thread writes eight elements. */
export const DEQUANTIZE = `
${MATRICES}
template <typename Matrix>
__device__ inline void dequantize(scalar* out, const Matrix& matrix, int64 columns, int64 count) {
  const int64 at = 8 * thread_number();
  if (at >= count) return;
  float x[8];
  int64 row = at / columns, column = at % columns;
  if (matrix.whole() && columns % 8 == 0) {
    matrix.values_of(matrix.eight_at(row, column), row, x);
    store(out + at, 8, x);
    return;
  }
  for (int i = 0; i < 8; ++i) {
    x[i] = at + i < count ? matrix.value_at(row, column) : 0;
    if (++column == columns) ++row, column = 0;
  }
  store(out + at, count - at, x);
}

extern "C" __global__ void dequantize_nf4(
    scalar* out, const byte* codes, const byte* absmax, const float* table, const float* scales, float offset,
    int64 width, int64 row, int64 column, int64 columns, int64 count) {
  __shared__ float nf4[16];
  fill_nf4(nf4);
  __syncthreads();
  dequantize(out, Nf4{codes, absmax, scales, offset, width, row, column, nf4, table}, columns, count);
}

extern "C" __global__ void dequantize_int8(
    scalar* out, const signed char* codes, const float* scales, float unit, int64 stride, int64 columns, int64 count) {
  dequantize(out, Int8{codes, scales, unit, stride}, columns, count);
}
`;

/**
 * out = x W^T, or out += x W^T, for few rows of x, (tokens, columns). W, (rows, columns), is one of MATRICES,
 * and is read once for every PRODUCT_TOKENS rows of x.
 * A warp processes two rows of W. Each lane reads eight columns at a time, and requests the codes of four
 * such groups ahead.
 */
export const PRODUCT = `
${MATRICES}
constexpr int THREAD_COUNT = 256, LANES = 32, ROWS = 2, TOKENS = ${PRODUCT_TOKENS}, AHEAD = 4;

struct Product {
  scalar* out;
  const scalar* x;
  int64 tokens, rows, columns, xStride, outStride, add;
};

/** sums += x w for the eight columns that begin at c. */
__device__ inline void add_eight(float (&sums)[ROWS][TOKENS], const float (&w)[ROWS][8], const Product& p,
                                 int64 firstToken, int64 c) {
  #pragma unroll
  for (int t = 0; t < TOKENS; ++t) {
    if (firstToken + t >= p.tokens) break;
    float v[8];
    load(p.x + (firstToken + t) * p.xStride + c, p.columns - c, v);
    #pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      for (int i = 0; i < 8; ++i) sums[r][t] += w[r][i] * v[i];
    }
  }
}

template <typename Matrix>
__device__ inline void sum_columns(float (&sums)[ROWS][TOKENS], const Product& p, const Matrix& matrix, int64 firstToken,
                                   int64 firstRow) {
  const int64 first = 8 * (threadIdx.x % LANES), step = 8 * LANES;
  float w[ROWS][8];
  if (!matrix.whole() || p.columns % 8 != 0) {
    for (int64 c = first; c < p.columns; c += step) {
      for (int r = 0; r < ROWS; ++r) {
        for (int i = 0; i < 8; ++i)
          w[r][i] = firstRow + r < p.rows && c + i < p.columns ? matrix.value_at(firstRow + r, c + i) : 0;
      }
      add_eight(sums, w, p, firstToken, c);
    }
    return;
  }
  for (int64 start = first; start < p.columns; start += step * AHEAD) {
    typename Matrix::Eight eights[AHEAD][ROWS];
    #pragma unroll
    for (int a = 0; a < AHEAD; ++a) {
      #pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        const int64 row = firstRow + r < p.rows ? firstRow + r : p.rows - 1; // a row past the end is not written
        if (start + a * step < p.columns) eights[a][r] = matrix.eight_at(row, start + a * step);
      }
    }
    #pragma unroll
    for (int a = 0; a < AHEAD; ++a) {
      if (start + a * step >= p.columns) break;
      #pragma unroll
      for (int r = 0; r < ROWS; ++r) matrix.values_of(eights[a][r], firstRow + r < p.rows ? firstRow + r : p.rows - 1, w[r]);
      add_eight(sums, w, p, firstToken, start + a * step);
    }
  }
}

/** All threads of a block must call this. A block processes 16 rows of W, and TOKENS rows of x. */
template <typename Matrix>
__device__ inline void product(const Product& p, const Matrix& matrix) {
  __shared__ float parts[ROWS * TOKENS][THREAD_COUNT];
  const int64 tokenParts = (p.tokens + TOKENS - 1) / TOKENS;
  const int64 firstToken = blockIdx.x % tokenParts * TOKENS;
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  const int64 firstRow = (blockIdx.x / tokenParts * (THREAD_COUNT / LANES) + warp) * ROWS;
  float sums[ROWS][TOKENS] = {};
  if (firstRow < p.rows) sum_columns(sums, p, matrix, firstToken, firstRow);
  for (int r = 0; r < ROWS; ++r) {
    for (int t = 0; t < TOKENS; ++t) parts[r * TOKENS + t][threadIdx.x] = sums[r][t];
  }
  __syncthreads();
  const int64 row = firstRow + lane / TOKENS, token = firstToken + lane % TOKENS;
  if (lane >= ROWS * TOKENS || row >= p.rows || token >= p.tokens) return;
  float sum = 0;
  for (int i = 0; i < LANES; ++i) sum += parts[lane][warp * LANES + (i + lane) % LANES];
  scalar* to = p.out + token * p.outStride + row;
  *to = narrow(p.add ? widen(*to) + sum : sum);
}

extern "C" __global__ void product_nf4(
    scalar* out, const scalar* x, const byte* codes, const byte* absmax, const float* table, const float* scales,
    float offset, int64 width, int64 row, int64 column, int64 tokens, int64 rows, int64 columns, int64 xStride,
    int64 outStride, int64 add) {
  __shared__ float nf4[16], magnitudes[THREAD_COUNT];
  fill_nf4(nf4);
  magnitudes[threadIdx.x] = table[threadIdx.x];
  __syncthreads();
  const Nf4 matrix = {codes, absmax, scales, offset, width, row, column, nf4, magnitudes};
  product(Product{out, x, tokens, rows, columns, xStride, outStride, add}, matrix);
}

extern "C" __global__ void product_int8(
    scalar* out, const scalar* x, const signed char* codes, const float* scales, float unit, int64 stride, int64 tokens,
    int64 rows, int64 columns, int64 xStride, int64 outStride, int64 add) {
  const Int8 matrix = {codes, scales, unit, stride};
  product(Product{out, x, tokens, rows, columns, xStride, outStride, add}, matrix);
}
`;

/**
 * Converts the rows of x, (rows, columns) with `stride` between rows, to e4m3 with a scale for each row. A
 * row's largest magnitude becomes 448. Codes are rounded to the nearest, ties to even.
 * If there are factors, each column is first multiplied by its factor. A block converts a row, which it reads
 * twice.
 */
export const ROWS_FP8 = `
constexpr int THREAD_COUNT = 256;
constexpr unsigned SIGNLESS = 0x7fffffff;

/** Returns the codes of two numbers from -448 to 448, or NaN; the first is in the low bits. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
__device__ inline unsigned e4m3_pair(float first, float second) {
  unsigned short codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(second), "f"(first));
  return codes;
}
#else
__device__ inline byte e4m3(float x) {
  const unsigned bits = __float_as_uint(x), sign = bits >> 24 & 128, size = bits & SIGNLESS;
  if (size > 0x7f800000) return sign | 127;
  if (size < 0x3c800000) { // below 2^-6: multiples of 2^-9, the last bit of floats from 2^14 on
    return sign | (__float_as_uint(__uint_as_float(size) + 16384.0f) - __float_as_uint(16384.0f));
  }
  return sign | (size - 0x3c000000 + 0x7ffff + (size >> 20 & 1)) >> 20; // exponent bias 7 instead of 127
}
__device__ inline unsigned e4m3_pair(float first, float second) { return e4m3(first) | (unsigned)e4m3(second) << 8; }
#endif

__device__ inline float within_e4m3(float x) { return x > 448 ? 448 : x < -448 ? -448 : x; }

__device__ inline void load_products(const scalar* from, const float* factors, int64 at, int64 columns, float* to) {
  load(from + at, columns - at, to);
  if (!factors) return;
  if (at + 8 <= columns && (unsigned long long)(factors + at) % 16 == 0) {
    uint4 parts[2] = {((const uint4*)(factors + at))[0], ((const uint4*)(factors + at))[1]};
    for (int i = 0; i < 8; ++i) to[i] *= ((const float*)parts)[i];
  } else {
    for (int i = 0; i < 8; ++i) if (at + i < columns) to[i] *= factors[at + i];
  }
}

__device__ inline void rows_in_fp8(byte* codes, float* scales, const scalar* x, const float* factors, int64 stride,
                                   int64 columns) {
  __shared__ unsigned parts[THREAD_COUNT];
  const scalar* from = x + blockIdx.x * stride;
  byte* to = codes + blockIdx.x * columns;
  float v[8];
  unsigned most = __float_as_uint(1e-30f); // bits order like the magnitudes; NaN is the largest
  for (int64 at = 8 * threadIdx.x; at < columns; at += 8 * THREAD_COUNT) {
    load_products(from, factors, at, columns, v);
    for (int i = 0; i < 8; ++i) {
      const unsigned size = __float_as_uint(v[i]) & SIGNLESS;
      if (size > most) most = size;
    }
  }
  parts[threadIdx.x] = most;
  for (int step = THREAD_COUNT / 2; step > 0; step /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < step && parts[threadIdx.x + step] > parts[threadIdx.x])
      parts[threadIdx.x] = parts[threadIdx.x + step];
  }
  __syncthreads();
  const float largest = __uint_as_float(parts[0]), factor = 1 / largest * 448;
  if (threadIdx.x == 0) scales[blockIdx.x] = largest / 448;
  for (int64 at = 8 * threadIdx.x; at < columns; at += 8 * THREAD_COUNT) {
    load_products(from, factors, at, columns, v);
    unsigned long long eight = 0;
    for (int i = 0; i < 8; i += 2) {
      const unsigned pair = e4m3_pair(within_e4m3(v[i] * factor), within_e4m3(v[i + 1] * factor));
      eight |= (unsigned long long)pair << 8 * i;
    }
    if (at + 8 <= columns && (unsigned long long)(to + at) % 8 == 0) *(unsigned long long*)(to + at) = eight;
    else for (int i = 0; i < 8; ++i) if (at + i < columns) to[at + i] = eight >> 8 * i & 255;
  }
}

extern "C" __global__ void rows_fp8(byte* codes, float* scales, const scalar* x, int64 stride, int64 columns) {
  rows_in_fp8(codes, scales, x, nullptr, stride, columns);
}

extern "C" __global__ void multiplied_rows_fp8(
    byte* codes, float* scales, const scalar* x, const float* factors, int64 stride, int64 columns) {
  rows_in_fp8(codes, scales, x, factors, stride, columns);
}
`;

/**
 * Transposes bytes. x: (rows, columns) with `stride` between rows; out: (columns, rows). A block transposes a
 * square. It reads and writes the square by rows, four bytes per thread.
 */
export const TURN = `
constexpr int THREAD_COUNT = 256, EDGE = ${TURN_EDGE}, WORDS = EDGE / 4;

__device__ inline bool whole_word(const byte* at, int64 length) { return length >= 4 && (unsigned long long)at % 4 == 0; }

extern "C" __global__ void turned_bytes(byte* out, const byte* x, int64 stride, int64 rows, int64 columns) {
  __shared__ byte square[EDGE][EDGE + 4]; // neighbouring rows begin in different banks
  const int64 across = (columns + EDGE - 1) / EDGE;
  const int64 firstRow = blockIdx.x / across * EDGE, firstColumn = blockIdx.x % across * EDGE;
  for (int word = threadIdx.x; word < EDGE * WORDS; word += THREAD_COUNT) {
    const int r = word / WORDS, c = word % WORDS * 4;
    const int64 row = firstRow + r, column = firstColumn + c;
    if (row >= rows) continue;
    const byte* from = x + row * stride + column;
    if (whole_word(from, columns - column)) *(unsigned*)&square[r][c] = *(const unsigned*)from;
    else for (int i = 0; i < 4; ++i) if (column + i < columns) square[r][c + i] = from[i];
  }
  __syncthreads();
  for (int word = threadIdx.x; word < EDGE * WORDS; word += THREAD_COUNT) {
    const int c = word / WORDS, r = word % WORDS * 4;
    const int64 row = firstRow + r, column = firstColumn + c;
    if (column >= columns || row >= rows) continue;
    unsigned four = 0;
    for (int i = 0; i < 4; ++i) four |= (unsigned)square[r + i][c] << 8 * i;
    byte* to = out + column * rows + row;
    if (whole_word(to, rows - row)) *(unsigned*)to = four;
    else for (int i = 0; i < 4; ++i) if (row + i < rows) to[i] = four >> 8 * i & 255;
  }
}
`;
