// out = a · b, fused.  out: [M, N]   NT: a [M, K], b [N, K]   NN: a [M, K], b [K, N]   TN: a [K, M], b [K, N]
//
// A workgroup makes one BM × BN tile of out. It walks K in steps of 16: the next piece of a and b comes from memory into
// registers while the present one is multiplied; both lie in workgroup memory as [k][row] and [k][column], so that
// a thread reads its rows and columns as vec4 and holds (4·GROUPS_M) × (4·GROUPS_N) sums in registers: 64 multiply-adds
// per 4 vec4 loads with 8 × 8 sums. Workgroup z takes the z-th part of K. Where there are several,
// each has a matrix of its own in `out`, scratch memory then, and split_k.wgsl adds them in order.
//
// A matrix whose rows run along K is transposed in 4 × 4 blocks on the way in. Row k = 4·k4 + c lies at [c][k4], two vec4 longer
// than needed: the eight threads of one store phase then hit eight different banks, and a thread finds all of its numbers
// at constant distances from few addresses (each index that varies is checked against the array's length).
//
// Rows and columns beyond the matrix read its last ones and are not stored; k beyond K reads zero.
//
// Cost: 2·M·N·K flops; reads (M/BM)·N·K of b and (N/BN)·M·K of a, mostly from cache; writes M·N.
// Workgroup memory 64·(BM + BN) + 1024 bytes. WHOLE: K is a multiple of 16, no k needs a check.

const BK = 16u;
const COLUMNS_A = BM / 4u;
const COLUMNS_B = BN / 4u;
const THREADS_N = BN / (4u * GROUPS_N);
const THREADS_M = BM / (4u * GROUPS_M);

var<workgroup> tile_a: array<array<array<vec4<f32>, COLUMNS_A + 2u>, BK / 4u>, 4>;
var<workgroup> tile_b: array<array<array<vec4<f32>, COLUMNS_B + 2u>, BK / 4u>, 4>;

// Block (i, k4) of a: four vec4 of rows 4i … 4i+3 of the tile, one for each of k = k0 + 4·k4 … + 3.
fn fetch_a(row0: u32, k0: u32, k_end: u32, i: u32, k4: u32) -> mat4x4<f32> {
  let k = k0 + 4u * k4;
  var m: mat4x4<f32>;
#if A_ALONG_K
#for c in 0..4
  {
    let start = min(row0 + 4u * i + $cu, p.M - 1u) * p.K;
#if WHOLE
    m[$c] = a_inside(start + k);
#else
    m[$c] = a_quad(start + k, start + k_end);
#end
  }
#end
#else
  let column = min(row0 + 4u * i, p.M - 1u);
#for c in 0..4
#if WHOLE
  m[$c] = a_inside((k + $cu) * p.M + column);
#else
  m[$c] = a_quad((k + $cu) * p.M + column, select(0u, (k + $cu + 1u) * p.M, k + $cu < k_end));
#end
#end
#end
  return m;
}

fn fetch_b(column0: u32, k0: u32, k_end: u32, i: u32, k4: u32) -> mat4x4<f32> {
  let k = k0 + 4u * k4;
  var m: mat4x4<f32>;
#if B_ALONG_K
#for c in 0..4
  {
    let start = min(column0 + 4u * i + $cu, p.N - 1u) * p.K;
#if WHOLE
    m[$c] = b_inside(start + k);
#else
    m[$c] = b_quad(start + k, start + k_end);
#end
  }
#end
#else
  let column = min(column0 + 4u * i, p.N - 1u);
#for c in 0..4
#if WHOLE
  m[$c] = b_inside((k + $cu) * p.N + column);
#else
  m[$c] = b_quad((k + $cu) * p.N + column, select(0u, (k + $cu + 1u) * p.N, k + $cu < k_end));
#end
#end
#end
  return m;
}

fn keep_a(fetched: mat4x4<f32>, i: u32, k4: u32) {
#if A_ALONG_K
  let m = transpose(fetched);
#else
  let m = fetched;
#end
#for c in 0..4
  tile_a[$c][k4][i] = m[$c];
#end
}

fn keep_b(fetched: mat4x4<f32>, i: u32, k4: u32) {
#if B_ALONG_K
  let m = transpose(fetched);
#else
  let m = fetched;
#end
#for c in 0..4
  tile_b[$c][k4][i] = m[$c];
#end
}

// Stores four sums of one row in the part's matrix.
fn store_row(row: u32, column: u32, part: u32, sums: vec4<f32>) {
  if (row >= p.M || column >= p.N) { return; }
  let start = (part * p.M + row) * p.N;
  store_fused(start + column, start + p.N, sums);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row0 = (p.first_tile_m + group.y) * BM;
  let column0 = (p.first_tile_n + group.x) * BN;
  let k_begin = group.z * p.part;
  let k_end = min(k_begin + p.part, p.K);
  let steps = (k_end - k_begin + BK - 1u) / BK;
  let k_last = k_begin + (steps - 1u) * BK;
  let tx = thread % THREADS_N;
  let ty = thread / THREADS_N;

  // Which 4 × 4 block this thread brings in: neighbours in memory go to neighbouring threads.
#if SHARED_LOAD
  // Half of the threads bring a, half b.
  let half = thread % (THREADS / 2u);
  let loads_a = thread < THREADS / 2u;
#else
  let half = thread;
#end
#if A_ALONG_K
  let ia = half / 4u;
  let ka = half % 4u;
#else
  let ia = half % COLUMNS_A;
  let ka = half / COLUMNS_A;
#end
#if B_ALONG_K
  let ib = half / 4u;
  let kb = half % 4u;
#else
  let ib = half % COLUMNS_B;
  let kb = half / COLUMNS_B;
#end

#for h in 0..GROUPS_M
#for c in x y z w
#for n in 0..GROUPS_N
  var sum_$h$c_$n = vec4<f32>();
#end
#end
#end

  var k0 = k_begin;
#if SHARED_LOAD
  var next: mat4x4<f32>;
  if (loads_a) { next = fetch_a(row0, k0, k_end, ia, ka); } else { next = fetch_b(column0, k0, k_end, ib, kb); }
#else
  var next_a = fetch_a(row0, k0, k_end, ia, ka);
  var next_b = fetch_b(column0, k0, k_end, ib, kb);
#end
  for (var step = 0u; step < steps; step++) {
    workgroupBarrier();
#if SHARED_LOAD
    if (loads_a) { keep_a(next, ia, ka); } else { keep_b(next, ib, kb); }
#else
    keep_a(next_a, ia, ka);
    keep_b(next_b, ib, kb);
#end
    workgroupBarrier();
    // The last piece is fetched once more instead of branching: a branch would wait at its end for what was fetched in it.
    k0 = min(k0 + BK, k_last);
#if SHARED_LOAD
    if (loads_a) { next = fetch_a(row0, k0, k_end, ia, ka); } else { next = fetch_b(column0, k0, k_end, ib, kb); }
#else
    next_a = fetch_a(row0, k0, k_end, ia, ka);
    next_b = fetch_b(column0, k0, k_end, ib, kb);
#end
    for (var k4 = 0u; k4 < BK / 4u; k4++) {
#for k in 0..4
      {
#for h in 0..GROUPS_M
        let a_$h = tile_a[$k][k4][ty + $hu * THREADS_M];
#end
#for n in 0..GROUPS_N
        let b_$n = tile_b[$k][k4][tx + $nu * THREADS_N];
#end
#for h in 0..GROUPS_M
#for c in x y z w
#for n in 0..GROUPS_N
        sum_$h$c_$n = fma(vec4(a_$h.$c), b_$n, sum_$h$c_$n);
#end
#end
#end
      }
#end
    }
  }

#for h in 0..GROUPS_M
#for n in 0..GROUPS_N
  {
    let row = row0 + 4u * (ty + $hu * THREADS_M);
    let column = column0 + 4u * (tx + $nu * THREADS_N);
    store_row(row, column, group.z, sum_$hx_$n);
    store_row(row + 1u, column, group.z, sum_$hy_$n);
    store_row(row + 2u, column, group.z, sum_$hz_$n);
    store_row(row + 3u, column, group.z, sum_$hw_$n);
  }
#end
#end
}
