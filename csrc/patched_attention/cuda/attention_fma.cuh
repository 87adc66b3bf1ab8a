// Attention to few keys by plain multiply-adds in float32, for several heads of a parent in one block.
//
// Short sequences are bound by memory: a block fetches the positions of a few heads, and as it holds few threads and
// little shared memory, many blocks share a multiprocessor and one's loads hide behind another's arithmetic.
#pragma once

#include <algorithm>

#include "cuda/launch.cuh"
#include "patched_attention/cuda/children.cuh"
#include "patched_attention/cuda/launcher.h"

namespace pilot::cuda {

// kLanes threads share a query, each with kWidth of the padded head_dim.
template <typename T_, int kLanes_, int kWidth_>
struct FmaShape {
  using T = T_;
  static constexpr int kLanes = kLanes_, kWidth = kWidth_;
  static constexpr int kQueries = 2;  // of a thread: what it loads of a key or value serves both
  static constexpr int kKeys = 8;     // scored together: their weights stay in registers
  static constexpr int kMaxThreads = 128;
  static constexpr int kUnits = kWidth / kPerUnit<T>;
  static constexpr int kHeadDim = kLanes * kWidth;
  // A row is an odd number of lane groups long, so that consecutive rows start in different banks.
  static constexpr int kRowUnits = kLanes * (kUnits | 1);
  static constexpr int kStride = kRowUnits * kPerUnit<T>;
  // Likewise consecutive heads, which a warp reads side by side.
  static constexpr __host__ __device__ int tile_size(int rows) {
    return ((rows * kRowUnits + 7) / 8 * 8 + kLanes) * kPerUnit<T>;
  }
};

// How the work is cut into blocks.
struct FmaBlocks {
  int heads;  // of q in a block
  int rows;   // queries in a block, a multiple of kQueries
  int keys;   // in a tile, a multiple of kKeys
  int head_groups, query_tiles, shares;
  float scale_log2;  // scale, for exponentials to base 2
  bool load_aligned, write_aligned;
};

// Adds keys [first, first + kKeys) of the tile to the running softmax of this thread's queries: maximum m, sum l,
// weighted values o. `last[i]` is the last key of the tile that query i may see.
template <typename Shape, typename T = typename Shape::T>
__device__ inline void attend(float (&o)[Shape::kQueries][Shape::kWidth], float (&m)[Shape::kQueries],
                              float (&l)[Shape::kQueries], const T* q, const T* k, const T* v, int first,
                              const int (&last)[Shape::kQueries], float scale_log2) {
  constexpr int kUnit = kPerUnit<T>, kQueries = Shape::kQueries, kKeys = Shape::kKeys, kStep = Shape::kLanes * kUnit;
  float s[kQueries][kKeys] = {};
#pragma unroll 4
  for (int u = 0; u < Shape::kUnits; ++u) {
    float query[kQueries][kUnit];
#pragma unroll
    for (int i = 0; i < kQueries; ++i) load_unit(query[i], q + i * Shape::kStride + u * kStep);
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      float key[kUnit];
      load_unit(key, k + (first + j) * Shape::kStride + u * kStep);
#pragma unroll
      for (int i = 0; i < kQueries; ++i) {
#pragma unroll
        for (int e = 0; e < kUnit; ++e) s[i][j] = fmaf(query[i][e], key[e], s[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    float top = m[i];
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
#pragma unroll
      for (int lane = 1; lane < Shape::kLanes; lane *= 2) s[i][j] += __shfl_xor_sync(kWholeWarp, s[i][j], lane);
      s[i][j] = first + j <= last[i] ? s[i][j] * scale_log2 : -INFINITY;
      top = fmaxf(top, s[i][j]);
    }
    const float shrink = exp2_fast(m[i] - top);
    m[i] = top;
    l[i] *= shrink;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      s[i][j] = exp2_fast(s[i][j] - top);
      l[i] += s[i][j];
    }
#pragma unroll
    for (int d = 0; d < Shape::kWidth; ++d) o[i][d] *= shrink;
  }
#pragma unroll
  for (int j = 0; j < kKeys; ++j) {
#pragma unroll
    for (int u = 0; u < Shape::kUnits; ++u) {
      float value[kUnit];
      load_unit(value, v + (first + j) * Shape::kStride + u * kStep);
#pragma unroll
      for (int i = 0; i < kQueries; ++i) {
#pragma unroll
        for (int e = 0; e < kUnit; ++e) o[i][u * kUnit + e] = fmaf(s[i][j], value[e], o[i][u * kUnit + e]);
      }
    }
  }
}

template <typename Shape, typename T = typename Shape::T>
__global__ void __launch_bounds__(Shape::kMaxThreads)
    attention_fma_kernel(PatchedAttention<T> op, Plan plan, FmaBlocks blocks) {
  int64_t block = blockIdx.x;
  const int share = static_cast<int>(block % blocks.shares);
  block /= blocks.shares;
  const int64_t first_pos = (blocks.query_tiles - 1 - block % blocks.query_tiles) * blocks.rows;  // the longest first
  block /= blocks.query_tiles;
  const int first_head = static_cast<int>(block % blocks.head_groups) * blocks.heads;
  const int64_t parent = block / blocks.head_groups;
  const Children children(plan, parent, share, blocks.shares);
  if (children.count == 0) return;

  const int heads = min(blocks.heads, static_cast<int>(op.H) - first_head);
  const int rows = static_cast<int>(min(static_cast<int64_t>(blocks.rows), op.Tq - first_pos));
  const int queries_per_kv = static_cast<int>(op.H / op.H_kv), D = static_cast<int>(op.D);
  const int first_kv = first_head / queries_per_kv, kv_heads = (first_head + heads - 1) / queries_per_kv - first_kv + 1;

  constexpr int kStride = Shape::kStride, kWidth = Shape::kHeadDim, kQueries = Shape::kQueries;
  const int q_size = Shape::tile_size(blocks.rows), kv_size = Shape::tile_size(blocks.keys);
  T* const q_tiles = reinterpret_cast<T*>(dynamic_shared());  // becomes z's
  T* const k_tiles = q_tiles + blocks.heads * q_size;
  T* const v_tiles = k_tiles + blocks.heads * kv_size;

  const unsigned needed =
      heads_needed(op, children, first_head, heads, first_pos, rows, *reinterpret_cast<unsigned*>(q_tiles));
  if (needed) {
    for (int h = 0; h < heads; ++h) {
      if (!(needed >> h & 1)) continue;
      const T* q =
          op.q + parent * op.q_strides.row + first_pos * op.q_strides.pos + (first_head + h) * op.q_strides.head;
      load_tile<kWidth>(q_tiles + h * q_size, blocks.rows, kStride, q, op.q_strides.pos, rows, D, blocks.load_aligned,
                        blockDim.x);
    }
    // Threads: lane of a query fastest, then head, then query, so that a warp holds neighbouring queries and stops at
    // their last key.
    const int lane = threadIdx.x % Shape::kLanes, pair = threadIdx.x / Shape::kLanes;
    const int head = pair % heads, query = pair / heads * kQueries;
    const bool active = query < blocks.rows;
    const int row = active ? query : 0;
    T* const q = q_tiles + head * q_size + row * kStride + lane * kPerUnit<T>;
    const int kv = (first_head + head) / queries_per_kv - first_kv;
    const T* const k = k_tiles + kv * kv_size + lane * kPerUnit<T>;
    const T* const v = v_tiles + kv * kv_size + lane * kPerUnit<T>;

    float o[kQueries][Shape::kWidth] = {}, m[kQueries], l[kQueries] = {};
    for (int i = 0; i < kQueries; ++i) m[i] = -FLT_MAX;  // not -infinity: -infinity less itself is NaN
    const int64_t before = op.Tk - op.Tq + first_pos;    // query i of the tile sees keys up to before + i
    const int64_t end = before + rows;
    for (int64_t first_key = 0; first_key < end; first_key += blocks.keys) {
      if (first_key > 0) __syncthreads();  // the last tile is read
      const int tile_keys = static_cast<int>(min(static_cast<int64_t>(blocks.keys), end - first_key));
      const int rows_read = (tile_keys + Shape::kKeys - 1) / Shape::kKeys * Shape::kKeys;
      for (int h = 0; h < kv_heads; ++h) {
        const int q_from = max((first_kv + h) * queries_per_kv - first_head, 0);
        const int q_to = min((first_kv + h + 1) * queries_per_kv - first_head, heads);
        if (!(needed >> q_from & (kWholeWarp >> (32 - (q_to - q_from))))) continue;
        const int64_t kv_head = first_kv + h;
        load_tile<kWidth>(k_tiles + h * kv_size, rows_read, kStride,
                          op.k + parent * op.k_strides.row + first_key * op.k_strides.pos + kv_head * op.k_strides.head,
                          op.k_strides.pos, tile_keys, D, blocks.load_aligned, blockDim.x);
        load_tile<kWidth>(v_tiles + h * kv_size, rows_read, kStride,
                          op.v + parent * op.v_strides.row + first_key * op.v_strides.pos + kv_head * op.v_strides.head,
                          op.v_strides.pos, tile_keys, D, blocks.load_aligned, blockDim.x);
      }
      wait_for_copies();
      __syncthreads();

      int last[kQueries];
      for (int i = 0; i < kQueries; ++i) {
        last[i] = static_cast<int>(min(before + row + i - first_key, int64_t{INT_MAX}));
      }
      for (int key = 0; key < tile_keys; key += Shape::kKeys) {
        if (!__any_sync(kWholeWarp, active && (needed >> head & 1) && key <= last[kQueries - 1])) break;
        attend<Shape>(o, m, l, q, k, v, key, last, blocks.scale_log2);
      }
    }
    __syncthreads();  // idle threads read row 0 along with its owner, who now overwrites it
    if (active) {
#pragma unroll
      for (int i = 0; i < kQueries; ++i) {
        const float inverse = 1.0f / l[i];
#pragma unroll
        for (int u = 0; u < Shape::kUnits; ++u) {
          float z[kPerUnit<T>];
#pragma unroll
          for (int e = 0; e < kPerUnit<T>; ++e) z[e] = o[i][u * kPerUnit<T> + e] * inverse;
          store_unit(q + i * kStride + u * Shape::kLanes * kPerUnit<T>, z);
        }
      }
    }
    __syncthreads();
  }
  for (int h = 0; h < heads; ++h) {
    write_children<kWidth>(op, children, first_head + h, first_pos, rows, q_tiles + h * q_size, kStride,
                           blocks.write_aligned, blockDim.x);
  }
}

// Cuts the work so that a multiprocessor holds two blocks of one head each, or four of several heads.
template <typename Shape, typename T = typename Shape::T>
cudaError_t launch_fma(const PatchedAttention<T>& op, const Plan& plan, const Device& device, cudaStream_t stream) {
  FmaBlocks blocks{};
  const int64_t rows = std::min<int64_t>(op.Tq, Shape::kMaxThreads / Shape::kLanes * Shape::kQueries);
  blocks.rows = static_cast<int>(ceil_div(rows, Shape::kQueries) * Shape::kQueries);
  blocks.keys = static_cast<int>(ceil_div(op.Tk, Shape::kKeys) * Shape::kKeys);
  const auto head_bytes = [&] {
    return static_cast<int64_t>((Shape::tile_size(blocks.rows) + 2 * Shape::tile_size(blocks.keys)) * sizeof(T));
  };
  while (head_bytes() > device.shared_for(2)) {
    if (blocks.keys > 2 * Shape::kKeys) {
      blocks.keys = static_cast<int>(ceil_div(blocks.keys / 2, Shape::kKeys) * Shape::kKeys);
    } else {
      blocks.rows = static_cast<int>(ceil_div(blocks.rows / 2, Shape::kQueries) * Shape::kQueries);
    }
  }

  const int head_threads = blocks.rows / Shape::kQueries * Shape::kLanes;
  const int64_t fitting =
      std::min<int64_t>({op.H, 32, Shape::kMaxThreads / head_threads, device.shared_for(4) / head_bytes()});
  blocks.head_groups = static_cast<int>(ceil_div(op.H, std::max<int64_t>(fitting, 1)));
  blocks.heads = static_cast<int>(ceil_div(op.H, blocks.head_groups));
  blocks.query_tiles = static_cast<int>(ceil_div(op.Tq, blocks.rows));
  const int64_t parent_blocks = op.P * blocks.head_groups * blocks.query_tiles;
  blocks.shares = shares_for(parent_blocks, op.P, op.C, device.multiprocessors);
  blocks.scale_log2 = static_cast<float>(op.scale * kLog2E);
  blocks.load_aligned =
      aligned(op.q, op.q_strides, op.D) && aligned(op.k, op.k_strides, op.D) && aligned(op.v, op.v_strides, op.D);
  blocks.write_aligned = aligned(op.source, op.source_strides, op.D) && aligned(op.z, Strides{}, op.D);

  const int threads = static_cast<int>(ceil_div(blocks.heads * head_threads, 32) * 32);
  return launch(attention_fma_kernel<Shape>, parent_blocks * blocks.shares, threads, blocks.heads * head_bytes(),
                stream, op, plan, blocks);
}

template <typename T>
cudaError_t launch_attention(const PatchedAttention<T>& op, void* workspace, cudaStream_t stream) {
  const Plan plan(workspace, op.P, op.C);
  if (const cudaError_t error = launch_plan(plan, op.parent, op.source_row, op.P, op.C, op.S, stream)) return error;
  Device device{};
  if (const cudaError_t error = current_device(device)) return error;
  // The narrowest shape that holds head_dim.
  const auto run = [&](auto shape) { return launch_fma<decltype(shape)>(op, plan, device, stream); };
  if (op.D <= 16) return run(FmaShape<T, 1, 16>{});
  if (op.D <= 32) return run(FmaShape<T, 2, 16>{});
  if (op.D <= 64) return run(FmaShape<T, 2, 32>{});
  if (op.D <= 128) return run(FmaShape<T, 4, 32>{});
  return run(FmaShape<T, 8, kMaxHeadDim / 8>{});
}

}  // namespace pilot::cuda
