// Scaled dot product attention on meta. Sizes: B batch, H heads, T queries, S keys, D features per head.
#include <ATen/Parallel.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <map>
#include <string>
#include <unordered_map>

#include "meta_kernels.h"

namespace lorafit {
namespace {

using at::Tensor;

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

at::ScalarType accumulated(at::ScalarType type) { return is_half(type) ? at::kFloat : type; }

/** Allocates (B, H, T, D) with the memory layout (B, T, H, D). */
Tensor heads_inside(const Tensor& like) {
  return at::empty({like.size(0), like.size(2), like.size(1), like.size(3)}, like.options()).transpose(1, 2);
}

Tensor floats(const Tensor& like, at::IntArrayRef shape) {
  return at::empty(shape, like.options().dtype(at::kFloat));
}

// On cpu: ATen's native/cpu/FlashAttentionKernel.cpp.

int64_t cpu_query_block(int64_t queries) {
  return std::min<int64_t>(queries, queries >= 768 ? 256 : queries >= 192 ? 64 : 32);
}

/**
 * Returns whether the forward kernel copies all keys and values, packed for the processor's matrix unit. That
 * depends on the processor, the threads and all sizes. So the real kernel is called on memory that does not
 * exist, and stopped at the first allocation after those that it always makes.
 */
bool asked_whether_it_packs(const Tensor& query, const Tensor& key, const Tensor& value, bool causal) {
  constexpr size_t kOwn = 4; // result, logsumexp, two blocks of scores
  return allocation_after(kOwn, [&] {
           at::_scaled_dot_product_flash_attention_for_cpu(query, key, value, 0, causal);
         }).has_value();
}

/**
 * Returns whether the kernel ever packs in this dtype. If it does not, asking for a shape would mean
 * computing.
 */
bool can_pack(at::ScalarType dtype) {
  static auto* known = new std::map<at::ScalarType, bool>;
  if (const auto found = known->find(dtype); found != known->end()) return found->second;
  const Tensor heads = phantom({1, 4, 1024, 64}, {4 * 1024 * 64, 1024 * 64, 64, 1}, dtype);
  return known->emplace(dtype, asked_whether_it_packs(heads, heads, heads, false)).first->second;
}

bool packs_keys(const Tensor& query, const Tensor& key, const Tensor& value, bool causal) {
  if (!is_half(query.scalar_type()) || query.numel() == 0 || key.numel() == 0 || !can_pack(query.scalar_type()))
    return false;
  static auto* known = new std::unordered_map<std::string, bool>;
  const std::string shape = c10::str(
      query.scalar_type(), query.sizes(), query.strides(), key.sizes(), key.strides(), value.strides(), causal,
      at::get_num_threads());
  if (const auto found = known->find(shape); found != known->end()) return found->second;
  const bool packs = asked_whether_it_packs(phantom_of(query), phantom_of(key), phantom_of(value), causal);
  return known->emplace(shape, packs).first->second;
}

std::tuple<Tensor, Tensor> cpu_flash(
    const Tensor& query, const Tensor& key, const Tensor& value, double dropout, bool causal,
    const std::optional<Tensor>& mask, std::optional<double> scale) {
  TORCH_CHECK(
      query.dim() == 4 && key.dim() == 4 && value.dim() == 4, "query, key and value must have 4 dimensions");
  const auto accumulator = query.options().dtype(accumulated(query.scalar_type()));
  const int64_t threads = at::get_num_threads();
  const int64_t query_block = cpu_query_block(query.size(2));
  const int64_t keys = key.size(2), head = query.size(3);
  const int64_t key_block = std::min<int64_t>(keys, 512);
  const bool packs = packs_keys(query, key, value, causal);
  const int64_t reduced_block = packs ? round_up(key_block, 2) : key_block; // pairs of keys are packed

  Tensor out = at::empty_like(query); // laid out as the query
  Tensor logsumexp = at::empty({query.size(0), query.size(2), query.size(1)}, accumulator).transpose(1, 2);
  const Tensor scores = at::empty({threads, query_block * (key_block + 2 + head)}, accumulator);
  const Tensor reduced =
      at::empty({threads, query_block, is_half(query.scalar_type()) ? reduced_block : 0}, query.options());
  if (packs) {
    const int64_t heads = query.size(0) * query.size(1);
    const Tensor packed_keys = at::empty({heads, keys, head}, query.options());
    const Tensor packed_values = at::empty({heads, round_up(keys, 2), head}, query.options());
    const Tensor turned = at::empty({threads, key_block, head}, query.options());
  }
  return {out, logsumexp};
}

/** Returns a shorter length with the same blocks of 256 and of 512 rows, and the same remainder. */
int64_t shortened(int64_t rows) { return rows < 1280 ? rows : 768 + (rows - 768) % 512; }

/**
 * Returns the most bytes that one thread's products use inside oneDNN at once. Runs the real kernel once per
 * shape, on one head of zeros, shortened to a length with the same blocks. A single head's products run in
 * all threads, and use no less than products of several heads in one thread each.
 */
int64_t backward_product_scratch(
    const Tensor& query, const Tensor& key, const Tensor& value, bool causal) {
  const at::ScalarType dtype = query.scalar_type();
  if (!is_half(dtype) || !asks_onednn(dtype)) return 0;
  static auto* known = new std::map<std::vector<int64_t>, int64_t>;
  const int64_t queries = shortened(query.size(2)), keys = shortened(key.size(2));
  const std::vector<int64_t> shape{static_cast<int64_t>(dtype), queries,       keys,           query.size(3), query.stride(2),
                                   key.stride(2),               value.stride(2), causal,         at::get_num_threads()};
  if (const auto found = known->find(shape); found != known->end()) return found->second;
  const auto head = [](const Tensor& like, int64_t rows) {
    return phantom({1, 1, rows, like.size(3)}, {0, 0, like.stride(2), 1}, like.scalar_type());
  };
  const Tensor one_query = head(query, queries), one_key = head(key, keys), one_value = head(value, keys);
  const Tensor out =
      phantom({1, 1, queries, query.size(3)}, {0, 0, query.size(3), 1}, query.scalar_type());
  const Tensor logsumexp = phantom({1, 1, queries}, {0, 0, 1}, at::kFloat);
  std::vector<int64_t> sizes;
  {
    const ListAllocations listing(sizes);
    at::_scaled_dot_product_flash_attention_for_cpu_backward(
        out, one_query, one_key, one_value, out, logsumexp, 0, causal);
  }
  constexpr size_t kOwn = 6; // three gradients, two blocks of scores, sums of rows
  const int64_t most = sizes.size() > kOwn ? *std::max_element(sizes.begin() + kOwn, sizes.end()) : 0;
  return known->emplace(shape, most).first->second;
}

std::tuple<Tensor, Tensor, Tensor> cpu_flash_backward(
    const Tensor& grad_out, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& out,
    const Tensor& logsumexp, double dropout, bool causal, const std::optional<Tensor>& mask,
    std::optional<double> scale) {
  TORCH_CHECK(
      query.dim() == 4 && key.dim() == 4 && value.dim() == 4, "query, key and value must have 4 dimensions");
  const auto accumulator = query.options().dtype(accumulated(query.scalar_type()));
  const int64_t threads = at::get_num_threads();
  const int64_t query_block = cpu_query_block(query.size(2));
  const int64_t block = 2 * query_block * std::min<int64_t>(key.size(2), 512);

  const Tensor whole_grad = grad_out.transpose(1, 2).contiguous();
  Tensor grad_query = heads_inside(query), grad_key = heads_inside(key), grad_value = heads_inside(value);
  const Tensor scores = at::empty({threads, block}, accumulator);
  const Tensor reduced = at::empty({threads, is_half(query.scalar_type()) ? block : 0}, query.options());
  const int64_t scratch = backward_product_scratch(query, key, value, causal);
  std::vector<Tensor> of_threads; // memory of each working thread; at most all threads at once
  for (int64_t thread = 0; thread < std::min(threads, query.size(0) * query.size(1)); ++thread) {
    of_threads.push_back(at::empty({query_block}, accumulator));
    if (scratch > 0) of_threads.push_back(at::empty({scratch}, query.options().dtype(at::kByte)));
  }
  return {grad_query, grad_key, grad_value};
}

// On CUDA, flash attention: ATen's native/transformers/cuda/flash_attn/flash_api.cpp. Layout (B, T, H, D).

int64_t rounded_head(int64_t head) { return round_up(round_up(head, 8), head <= 128 ? 32 : 64); }

/**
 * Returns into how many parts keys are split to keep a card busy with few queries: the fewest with nearly the
 * best occupancy.
 */
int64_t key_splits(int64_t query_blocks, int64_t slots, int64_t key_blocks) {
  if (slots == 0 || query_blocks >= 0.8 * slots) return 1;
  const int64_t most = std::min<int64_t>({128, slots, key_blocks});
  const auto blocks_a_split = [&](int64_t splits) { return (key_blocks + splits - 1) / splits; };
  const auto eligible = [&](int64_t splits) {
    return splits == 1 || blocks_a_split(splits) != blocks_a_split(splits - 1);
  };
  const auto occupancy = [&](int64_t splits) {
    const float waves = static_cast<float>(query_blocks * splits) / slots;
    return waves / std::ceil(waves);
  };
  float best = 0;
  for (int64_t splits = 1; splits <= most; ++splits) {
    if (eligible(splits)) best = std::max(best, occupancy(splits));
  }
  for (int64_t splits = 1; splits <= most; ++splits) {
    if (eligible(splits) && occupancy(splits) >= 0.85f * best) return splits;
  }
  return 1;
}

struct FlashResult {
  Tensor out, logsumexp, rng_state, unused;
};

/** Allocates for dense (B, T, H, D), or packed (total, H, D) with cumulative lengths. */
FlashResult flash(
    const Tensor& query, const Tensor& key, const std::optional<Tensor>& cumulative, int64_t longest_query,
    int64_t longest_key, double dropout) {
  const int64_t heads = query.size(-2), head = query.size(-1);
  const bool packed = cumulative && cumulative->defined();
  const int64_t batch = packed ? cumulative->numel() - 1 : query.size(0);
  FlashResult result;
  result.out = at::empty_like(query);
  result.logsumexp =
      packed ? floats(query, {heads, query.size(0)}) : floats(query, {batch, heads, longest_query});
  Tensor split_logsumexp, split_out;
  if (!packed && dropout == 0) {
    const int64_t key_block = head <= 64 ? 256 : head <= 128 ? 128 : 64;
    const int64_t query_blocks = batch * heads * ((longest_query + 63) / 64);
    const int64_t splits = key_splits(
        query_blocks, 2 * plan_target().multiprocessors, (longest_key + key_block - 1) / key_block);
    if (splits > 1) {
      split_logsumexp = floats(query, {splits, batch, heads, longest_query});
      split_out = floats(query, {splits, batch, heads, longest_query, rounded_head(head)});
    }
  }
  result.rng_state = at::empty({2}, query.options().dtype(at::kUInt64));
  result.unused = at::empty({}, query.options().dtype(at::kUInt64));
  return result;
}

std::tuple<Tensor, Tensor, Tensor> flash_backward(
    const Tensor& grad_out, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& out,
    const Tensor& cumulative) {
  const int64_t heads = query.size(-2), head = query.size(-1);
  const Tensor whole_grad = grad_out.contiguous(), whole_out = out.contiguous();
  Tensor grad_query = at::empty_like(query), grad_key = at::empty_like(key),
         grad_value = at::empty_like(value);
  Tensor sums, query_sums, wide_key, wide_value;
  if (cumulative.defined()) {
    const int64_t rows = query.size(0) + 128 * (cumulative.numel() - 1);
    sums = floats(query, {heads, rows});
    query_sums = floats(query, {rows, heads, rounded_head(head)});
  } else {
    const int64_t rows = round_up(query.size(1), 128);
    sums = floats(query, {query.size(0), heads, rows});
    query_sums = floats(query, {query.size(0), rows, heads, rounded_head(head)});
  }
  if (key.size(-2) != heads) { // gradients of each query head, before they are summed by key head
    auto shape = key.sizes().vec();
    shape[shape.size() - 2] = heads;
    wide_key = at::empty(shape, key.options());
    wide_value = at::empty(shape, value.options());
  }
  return {grad_query, grad_key, grad_value};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> flash_forward(
    const Tensor& query, const Tensor& key, const Tensor& value,
    const std::optional<Tensor>& cumulative_query, const std::optional<Tensor>& cumulative_key,
    int64_t longest_query, int64_t longest_key, double dropout, bool causal, bool debug,
    std::optional<double> scale, std::optional<int64_t> window_left, std::optional<int64_t> window_right,
    const std::optional<Tensor>& used_keys, const std::optional<Tensor>& alibi) {
  auto result = flash(query, key, cumulative_query, longest_query, longest_key, dropout);
  return {result.out, result.logsumexp, result.rng_state, result.unused, at::empty({0}, query.options())};
}

std::tuple<Tensor, Tensor, Tensor> flash_forward_backward(
    const Tensor& grad_out, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& out,
    const Tensor& logsumexp, const Tensor& cumulative_query, const Tensor& cumulative_key,
    int64_t longest_query, int64_t longest_key, double dropout, bool causal, const Tensor& rng_state,
    const Tensor& unused, std::optional<double> scale, std::optional<int64_t> window_left,
    std::optional<int64_t> window_right) {
  return flash_backward(grad_out, query, key, value, out, cumulative_query);
}

using FlashAttentionResult =
    std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor>;

FlashAttentionResult scaled_flash(
    const Tensor& query, const Tensor& key, const Tensor& value, double dropout, bool causal, bool debug,
    std::optional<double> scale) {
  auto result =
      flash(query.transpose(1, 2), key.transpose(1, 2), std::nullopt, query.size(2), key.size(2), dropout);
  const Tensor out = result.out.transpose(1, 2);
  return {
      out,
      result.logsumexp,
      Tensor(),
      Tensor(),
      query.size(2),
      key.size(2),
      result.rng_state,
      result.unused,
      at::empty({0}, query.options())};
}

std::tuple<Tensor, Tensor, Tensor> scaled_flash_backward(
    const Tensor& grad_out, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& out,
    const Tensor& logsumexp, const Tensor& cumulative_query, const Tensor& cumulative_key,
    int64_t longest_query, int64_t longest_key, double dropout, bool causal, const Tensor& seed,
    const Tensor& offset, std::optional<double> scale) {
  auto [grad_query, grad_key, grad_value] = flash_backward(
      grad_out.transpose(1, 2), query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2),
      out.transpose(1, 2), cumulative_query);
  return {grad_query.transpose(1, 2), grad_key.transpose(1, 2), grad_value.transpose(1, 2)};
}

// On CUDA, memory-efficient attention (any card, float32 too): ATen's native/transformers/cuda/attention*.cu.

std::tuple<Tensor, Tensor, Tensor, Tensor> efficient(
    const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& bias,
    bool with_logsumexp, double dropout, bool causal, std::optional<double> scale) {
  const int64_t batch = query.size(0), heads = query.size(1), queries = query.size(2), head = value.size(3);
  Tensor out = at::empty({batch, queries, heads, head}, query.options()).transpose(1, 2);
  Tensor logsumexp = floats(query, {batch, heads, with_logsumexp ? round_up(queries, 32) : 0});
  const bool accumulates = head > 128 && query.scalar_type() != at::kFloat;
  const Tensor accumulator = accumulates ? floats(query, {batch, queries, heads, head}) : Tensor();
  return {out, logsumexp, at::empty({}, at::kLong), at::empty({}, at::kLong)}; // on the CPU, without dropout
}

std::tuple<Tensor, Tensor, Tensor, Tensor> efficient_backward(
    const Tensor& grad_out, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& bias,
    const Tensor& out, const Tensor& logsumexp, const Tensor& seed, const Tensor& offset, double dropout,
    std::array<bool, 4> mask, bool causal, std::optional<double> scale) {
  const int64_t batch = query.size(0), heads = query.size(1), queries = query.size(2);
  const Tensor whole_grad = grad_out.transpose(1, 2).contiguous();
  Tensor grad_query = heads_inside(query), grad_key = heads_inside(key), grad_value = heads_inside(value);
  Tensor grad_bias;
  if (mask[3] && bias.defined()) {
    auto shape = bias.sizes().vec();
    shape.back() = round_up(shape.back(), 16);
    grad_bias = at::empty(shape, bias.options()).narrow(-1, 0, bias.size(-1));
  }
  const Tensor sums = floats(query, {batch, heads, queries});
  // In half precision, the kernel sums the queries' gradient in float32 tiles of its block size.
  const int64_t columns = round_up(query.size(3), query.size(3) <= 64 ? 64 : 128);
  const Tensor workspace =
      is_half(query.scalar_type()) ? floats(query, {batch, heads, round_up(queries, 64), columns}) : Tensor();
  return {grad_query, grad_key, grad_value, grad_bias};
}

// Memory-efficient attention in its own layout, (B, T, H, D). The two functions above transpose to that
// layout.

std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt> efficient_forward(
    const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& cumulative_query, const std::optional<Tensor>& cumulative_key,
    std::optional<c10::SymInt> longest_query, std::optional<c10::SymInt> longest_key, double dropout, int64_t mask,
    bool with_logsumexp, std::optional<double> scale, const std::optional<Tensor>& used_keys,
    std::optional<int64_t> window) {
  auto [out, logsumexp, seed, offset] = efficient(
      query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), bias, with_logsumexp, dropout, mask != 0,
      scale);
  return {out.transpose(1, 2), logsumexp, seed, offset, query.size(1), key.size(1)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> efficient_forward_backward(
    const Tensor& grad_out, const Tensor& query, const Tensor& key, const Tensor& value,
    const std::optional<Tensor>& bias, const Tensor& out, const std::optional<Tensor>& cumulative_query,
    const std::optional<Tensor>& cumulative_key, int64_t longest_query, int64_t longest_key,
    const Tensor& logsumexp, double dropout, const Tensor& seed, const Tensor& offset, int64_t mask,
    bool bias_requires_grad, std::optional<double> scale, std::optional<int64_t> splits,
    std::optional<int64_t> window, bool shared_storage) {
  auto [grad_query, grad_key, grad_value, grad_bias] = efficient_backward(
      grad_out.transpose(1, 2), query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), Tensor(),
      out.transpose(1, 2), logsumexp, seed, offset, dropout, {true, true, true, false}, mask != 0, scale);
  return {grad_query.transpose(1, 2), grad_key.transpose(1, 2), grad_value.transpose(1, 2), grad_bias};
}

// On CUDA, cuDNN's attention: ATen's native/cudnn/MHA.cpp. The size of cuDNN's workspace is not known in
// advance; in the backward pass, flash attention's memory serves as its estimate.

FlashAttentionResult cudnn(
    const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& bias,
    bool with_logsumexp, double dropout, bool causal, bool debug, std::optional<double> scale) {
  const Tensor out = at::empty_like(query);
  const Tensor logsumexp =
      with_logsumexp ? floats(query, {query.size(0), query.size(1), query.size(2), 1}) : Tensor();
  const auto scalar = query.options().dtype(at::kLong);
  return {
      out,
      logsumexp,
      Tensor(),
      Tensor(),
      query.size(2),
      key.size(2),
      at::empty({}, scalar),
      at::empty({}, scalar),
      Tensor()};
}

std::tuple<Tensor, Tensor, Tensor> cudnn_backward(
    const Tensor& grad_out, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& out,
    const Tensor& logsumexp, const Tensor& seed, const Tensor& offset, const Tensor& bias,
    const Tensor& cumulative_query, const Tensor& cumulative_key, int64_t longest_query, int64_t longest_key,
    double dropout, bool causal, std::optional<double> scale) {
  Tensor grad_query = at::empty_like(query), grad_key = at::empty_like(key), grad_value = at::empty_like(value);
  const int64_t batch = query.size(0), heads = query.size(1), queries = query.size(2);
  const Tensor sums = floats(query, {batch, heads, queries});
  const Tensor query_sums = floats(query, {batch, heads, queries, query.size(3)});
  Tensor wide_key, wide_value;
  if (key.size(1) != heads) {
    wide_key = at::empty({batch, heads, key.size(2), key.size(3)}, key.options());
    wide_value = at::empty({batch, heads, value.size(2), value.size(3)}, value.options());
  }
  return {grad_query, grad_key, grad_value};
}

} // namespace

void implement_attention(torch::Library& library) {
  library.impl("_scaled_dot_product_flash_attention_for_cpu", TORCH_FN(cpu_flash));
  library.impl("_scaled_dot_product_flash_attention_for_cpu_backward", TORCH_FN(cpu_flash_backward));
  library.impl("_flash_attention_forward", TORCH_FN(flash_forward));
  library.impl("_flash_attention_backward", TORCH_FN(flash_forward_backward));
  library.impl("_scaled_dot_product_flash_attention", TORCH_FN(scaled_flash));
  library.impl("_scaled_dot_product_flash_attention_backward", TORCH_FN(scaled_flash_backward));
  library.impl("_scaled_dot_product_efficient_attention", TORCH_FN(efficient));
  library.impl("_scaled_dot_product_efficient_attention_backward", TORCH_FN(efficient_backward));
  library.impl("_efficient_attention_forward", TORCH_FN(efficient_forward));
  library.impl("_efficient_attention_backward", TORCH_FN(efficient_forward_backward));
  library.impl("_scaled_dot_product_cudnn_attention", TORCH_FN(cudnn));
  library.impl("_scaled_dot_product_cudnn_attention_backward", TORCH_FN(cudnn_backward));
}

} // namespace lorafit
