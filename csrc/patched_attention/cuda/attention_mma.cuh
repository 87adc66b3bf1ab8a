// Attention of one head and a range of queries on the tensor cores, for 16-bit types: softmax over tiles of keys as
// they come (Dao 2023, "FlashAttention-2"), products by mma.sync m16n8k16, float32 sums.
//
// Four warps, each with its own queries, so that softmax needs no shared memory; the next tile of keys and values
// arrives while this one is worked on. Tiles after the last query's position are not read.
#pragma once

#include "cuda/launch.cuh"
#include "patched_attention/cuda/children.cuh"

namespace pilot::cuda {

template <typename T_, int kHeadDim_, int kRowTiles_, int kKeys_, int kBlocksPerSm_>
struct MmaShape {
  using T = T_;
  static constexpr int kHeadDim = kHeadDim_;  // padded
  static constexpr int kRowTiles =
      kRowTiles_;                       // of 16 queries, in a warp: each fragment of K and V loaded serves all of them
  static constexpr int kKeys = kKeys_;  // in a tile
  static constexpr int kBlocksPerSm = kBlocksPerSm_;
  static constexpr int kWarps = 4, kThreads = 32 * kWarps;
  static constexpr int kWarpRows = 16 * kRowTiles, kRows = kWarps * kWarpRows;
  static constexpr int kStride =
      kHeadDim + 8;  // 16 bytes longer than the row: ldmatrix then reads 8 rows from 8 different banks
  static constexpr size_t kSharedBytes =
      sizeof(T) * kStride * (kRows + 4 * kKeys);  // q (later z), and two stages of k and v
};

struct MmaBlocks {
  int query_tiles, shares;
  float scale_log2;  // scale, for exponentials to base 2
  bool load_aligned, write_aligned;
};

// What a warp knows of its queries. Lane l has rows l / 4 and l / 4 + 8 of each row tile, columns 2 (l % 4) and the
// next of every 8.
template <typename Shape>
struct Running {
  float o[Shape::kRowTiles][Shape::kHeadDim / 8][4];     // weighted sum of values
  float m[Shape::kRowTiles][2], l[Shape::kRowTiles][2];  // reference, and this lane's part of the sum of weights
};

// s = q k^T for the warp's queries and one tile of keys.
template <typename Shape, typename T = typename Shape::T>
__device__ inline void score(float (&s)[Shape::kRowTiles][Shape::kKeys / 8][4], const T* q, const T* k) {
  const int lane = threadIdx.x % 32;
  const T* const q_lane = q + lane % 16 * Shape::kStride + lane / 16 * 8;
  const T* const k_lane = k + (lane % 8 + lane / 16 * 8) * Shape::kStride + lane / 8 % 2 * 8;
#pragma unroll
  for (int d = 0; d < Shape::kHeadDim; d += 16) {
    uint32_t a[Shape::kRowTiles][4];
#pragma unroll
    for (int r = 0; r < Shape::kRowTiles; ++r) load_matrices<false>(a[r], q_lane + r * 16 * Shape::kStride + d);
#pragma unroll
    for (int j = 0; j < Shape::kKeys / 16; ++j) {
      uint32_t b[4];
      load_matrices<false>(b, k_lane + j * 16 * Shape::kStride + d);
#pragma unroll
      for (int r = 0; r < Shape::kRowTiles; ++r) {
        multiply_add<T>(s[r][2 * j], a[r], b[0], b[1]);
        multiply_add<T>(s[r][2 * j + 1], a[r], b[2], b[3]);
      }
    }
  }
}

// Scores become weights 2^(x - m). Where `masked`, the lane's first query sees the tile's keys up to `last` only, and
// scores may have been scaled by a negative number; most tiles are seen whole, and are spared the comparisons and the
// scaling by itself.
//
// m need not be the maximum: it follows once the maximum is 2^kSlack beyond it. That changes no weight's relative
// precision and mostly saves rescaling what was summed before.
template <bool masked, typename Shape>
__device__ inline void weigh(float (&s)[Shape::kRowTiles][Shape::kKeys / 8][4], Running<Shape>& run, int last,
                             float scale_log2) {
  constexpr float kSlack = 8.0f;
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int r = 0; r < Shape::kRowTiles; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row_last = last + r * 16 + half * 8;
      float top = -INFINITY;
#pragma unroll
      for (int j = 0; j < Shape::kKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[r][j][2 * half + e];
          if (masked) x = j * 8 + column + e <= row_last ? x * scale_log2 : -INFINITY;
          top = fmaxf(top, x);
        }
      }
      if (!masked) top *= scale_log2;
      top = fmaxf(top, __shfl_xor_sync(kWholeWarp, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kWholeWarp, top, 2));
      float& m = run.m[r][half];
      if (__any_sync(kWholeWarp, top > m + kSlack)) {
        top = fmaxf(top, m);
        const float shrink = exp2_fast(m - top);
        m = top;
        run.l[r][half] *= shrink;
#pragma unroll
        for (int d = 0; d < Shape::kHeadDim / 8; ++d)
          run.o[r][d][2 * half] *= shrink, run.o[r][d][2 * half + 1] *= shrink;
      }
#pragma unroll
      for (int j = 0; j < Shape::kKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[r][j][2 * half + e];
          x = exp2_fast(masked ? x - m : fmaf(x, scale_log2, -m));
          run.l[r][half] += x;
        }
      }
    }
  }
}

// o += weights v. The weights' accumulators are already laid out as the next product wants its left side.
template <typename Shape, typename T = typename Shape::T>
__device__ inline void gather(Running<Shape>& run, const float (&s)[Shape::kRowTiles][Shape::kKeys / 8][4],
                              const T* v) {
  const int lane = threadIdx.x % 32;
  const T* const v_lane = v + lane % 16 * Shape::kStride + lane / 16 * 8;
#pragma unroll
  for (int j = 0; j < Shape::kKeys / 16; ++j) {
    uint32_t a[Shape::kRowTiles][4];
#pragma unroll
    for (int r = 0; r < Shape::kRowTiles; ++r) {
      const float (&left)[4] = s[r][2 * j], (&right)[4] = s[r][2 * j + 1];
      a[r][0] = pack<T>(left[0], left[1]), a[r][1] = pack<T>(left[2], left[3]);
      a[r][2] = pack<T>(right[0], right[1]), a[r][3] = pack<T>(right[2], right[3]);
    }
#pragma unroll
    for (int d = 0; d < Shape::kHeadDim / 16; ++d) {
      uint32_t b[4];
      load_matrices<true>(b, v_lane + j * 16 * Shape::kStride + d * 16);
#pragma unroll
      for (int r = 0; r < Shape::kRowTiles; ++r) {
        multiply_add<T>(run.o[r][2 * d], a[r], b[0], b[1]);
        multiply_add<T>(run.o[r][2 * d + 1], a[r], b[2], b[3]);
      }
    }
  }
}

// z = o / l, into the warp's own rows of the tile.
template <typename Shape, typename T = typename Shape::T>
__device__ inline void store_rows(T* z, const Running<Shape>& run) {
  const int lane = threadIdx.x % 32;
  __syncwarp();  // the rows were q's, and every lane is done with them
#pragma unroll
  for (int r = 0; r < Shape::kRowTiles; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float l = run.l[r][half];
      l += __shfl_xor_sync(kWholeWarp, l, 1);
      l += __shfl_xor_sync(kWholeWarp, l, 2);
      const float inverse = 1.0f / l;
      T* row = z + (r * 16 + half * 8 + lane / 4) * Shape::kStride + lane % 4 * 2;
#pragma unroll
      for (int d = 0; d < Shape::kHeadDim / 8; ++d) {
        const uint32_t pair = pack<T>(run.o[r][d][2 * half] * inverse, run.o[r][d][2 * half + 1] * inverse);
        *reinterpret_cast<uint32_t*>(row + d * 8) = pair;
      }
    }
  }
}

template <typename Shape, typename T = typename Shape::T>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerSm)
    attention_mma_kernel(PatchedAttention<T> op, Plan plan, MmaBlocks blocks) {
  constexpr int kStride = Shape::kStride, kKeys = Shape::kKeys, kRows = Shape::kRows;
  int64_t block = blockIdx.x;
  const int share = static_cast<int>(block % blocks.shares);
  block /= blocks.shares;
  const int64_t first_pos = (blocks.query_tiles - 1 - block % blocks.query_tiles) * kRows;  // the longest first
  block /= blocks.query_tiles;
  const int head = static_cast<int>(block % op.H);
  const int64_t parent = block / op.H;
  const Children children(plan, parent, share, blocks.shares);
  if (children.count == 0) return;

  const int rows = static_cast<int>(min(static_cast<int64_t>(kRows), op.Tq - first_pos)), D = static_cast<int>(op.D);
  T* const q_tile = reinterpret_cast<T*>(dynamic_shared());  // becomes z's
  T* const kv_tiles = q_tile + kRows * kStride;

  if (heads_needed(op, children, head, 1, first_pos, rows, *reinterpret_cast<unsigned*>(q_tile))) {
    const int64_t kv_head = head / (op.H / op.H_kv);
    const T* const q = op.q + parent * op.q_strides.row + first_pos * op.q_strides.pos + head * op.q_strides.head;
    const T* const k = op.k + parent * op.k_strides.row + kv_head * op.k_strides.head;
    const T* const v = op.v + parent * op.v_strides.row + kv_head * op.v_strides.head;
    const int64_t before = op.Tk - op.Tq + first_pos;  // query i of the tile sees keys up to before + i
    const int64_t end = before + rows;
    const auto stage = [&](int64_t first_key) { return kv_tiles + first_key / kKeys % 2 * (2 * kKeys * kStride); };
    const auto load = [&](int64_t first_key) {
      const int keys = static_cast<int>(min(static_cast<int64_t>(kKeys), end - first_key));
      T* const tile = stage(first_key);
      load_tile<Shape::kHeadDim>(tile, kKeys, kStride, k + first_key * op.k_strides.pos, op.k_strides.pos, keys, D,
                                 blocks.load_aligned, Shape::kThreads);
      load_tile<Shape::kHeadDim>(tile + kKeys * kStride, kKeys, kStride, v + first_key * op.v_strides.pos,
                                 op.v_strides.pos, keys, D, blocks.load_aligned, Shape::kThreads);
    };
    load_tile<Shape::kHeadDim>(q_tile, kRows, kStride, q, op.q_strides.pos, rows, D, blocks.load_aligned,
                               Shape::kThreads);
    load(0);

    const int warp_row = threadIdx.x / 32 * Shape::kWarpRows;
    T* const warp_tile = q_tile + warp_row * kStride;
    Running<Shape> run{};
#pragma unroll
    for (int r = 0; r < Shape::kRowTiles; ++r)
      run.m[r][0] = run.m[r][1] = -FLT_MAX;  // not -infinity: see attention_fma.cuh

    for (int64_t first_key = 0; first_key < end; first_key += kKeys) {
      wait_for_copies();
      __syncthreads();  // this tile has arrived, and everyone is done with the one before it
      if (first_key + kKeys < end) load(first_key + kKeys);
      const int64_t last = before + warp_row - first_key;  // key of this tile that the warp's first query sees last
      if (last + Shape::kWarpRows <= 0) continue;          // no query of this warp sees any of the tile
      float s[Shape::kRowTiles][kKeys / 8][4] = {};
      const T* const tile = stage(first_key);
      score<Shape>(s, warp_tile, tile);
      if (last >= kKeys - 1 && blocks.scale_log2 >= 0) {
        weigh<false>(s, run, 0, blocks.scale_log2);
      } else {
        const int lane_row = threadIdx.x % 32 / 4;
        weigh<true>(s, run, static_cast<int>(min(last, int64_t{kKeys})) + lane_row, blocks.scale_log2);
      }
      gather<Shape>(run, s, tile + kKeys * kStride);
    }
    store_rows<Shape>(warp_tile, run);
  }
  __syncthreads();
  write_children<Shape::kHeadDim>(op, children, head, first_pos, rows, q_tile, kStride, blocks.write_aligned,
                                  Shape::kThreads);
}

template <typename Shape, typename T = typename Shape::T>
cudaError_t launch_mma(const PatchedAttention<T>& op, const Plan& plan, const Device& device, cudaStream_t stream) {
  MmaBlocks blocks{};
  blocks.query_tiles = static_cast<int>(ceil_div(op.Tq, Shape::kRows));
  const int64_t parent_blocks = op.P * op.H * blocks.query_tiles;
  blocks.shares = shares_for(parent_blocks, op.P, op.C, device.multiprocessors);
  blocks.scale_log2 = static_cast<float>(op.scale * kLog2E);
  blocks.load_aligned =
      aligned(op.q, op.q_strides, op.D) && aligned(op.k, op.k_strides, op.D) && aligned(op.v, op.v_strides, op.D);
  blocks.write_aligned = aligned(op.source, op.source_strides, op.D) && aligned(op.z, Strides{}, op.D);
  return launch(attention_mma_kernel<Shape>, parent_blocks * blocks.shares, Shape::kThreads, Shape::kSharedBytes,
                stream, op, plan, blocks);
}

// The narrowest shape that holds head_dim. Row tiles and keys: as many as the registers hold, because shared memory is
// nearly as busy as the tensor cores, and each fragment of k and v serves all row tiles, each of q all keys.
template <typename T>
cudaError_t attention_mma(const PatchedAttention<T>& op, const Plan& plan, const Device& device, cudaStream_t stream) {
  if (op.D <= 64) return launch_mma<MmaShape<T, 64, 2, 64, 2>>(op, plan, device, stream);
  if (op.D <= 128) return launch_mma<MmaShape<T, 128, 2, 48, 2>>(op, plan, device, stream);
  return launch_mma<MmaShape<T, 256, 1, 32, 2>>(op, plan, device, stream);
}

}  // namespace pilot::cuda
