// out = a · bᵀ, fused, for few rows of a: decoding.  a: [M, K]   b: [N, K]   out: [M, N]
// A workgroup makes OUTPUTS columns of ROWS rows. What a row gets does not depend on how many others there are. LANES neighbouring threads share one row of b: each takes every LANES-th quad of it against the same quads of all
// rows of a, so that b, by far the most to read, is read once, coalesced. Their sums meet in workgroup memory; then one thread a
// result adds the LANES of them in order.
// NORM: out = rmsnorm(a) · bᵀ. The norm has no weights, so it is one factor a row: 1 / sqrt(mean(a²) + 1e-5).
// Cost: 2·M·N·K flops; reads N·K of b and M·K of a for each workgroup (from cache), N·K again for each ROWS rows; writes M·N.
// Workgroup memory 4·ROWS·THREADS bytes (at most 4 KiB), NORM twice that.

const THREADS = 128u;
const LANES = 16u;
const OUTPUTS = THREADS / LANES;

var<workgroup> sums: array<f32, ROWS * THREADS>;
#if NORM
var<workgroup> squares: array<f32, ROWS * THREADS>;
#end

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let lane = thread % LANES;
  let first_column = (group.x + group.y * groups.x) * OUTPUTS;
  let column = first_column + thread / LANES;
  let first_row = group.z * ROWS;
  let b_start = min(column, p.N - 1u) * p.K;
  let b_end = b_start + p.K;
#for r in 0..ROWS
  var sum_$r = vec4<f32>();
#if NORM
  var squares_$r = 0.0;
#end
  let a_start_$r = min(first_row + $ru, p.M - 1u) * p.K;
#end
  let steps = (p.K + 4u * LANES - 1u) / (4u * LANES);
  for (var step = 0u; step < steps; step++) {
    let k = 4u * (step * LANES + lane);
    let weights = b_quad(b_start + k, b_end);
#for r in 0..ROWS
    let a_$r = a_quad(a_start_$r + k, a_start_$r + p.K);
    sum_$r = fma(weights, a_$r, sum_$r);
#if NORM
    squares_$r += dot(a_$r, a_$r);
#end
#end
  }
#for r in 0..ROWS
  sums[$ru * THREADS + thread] = dot(sum_$r, vec4(1.0));
#if NORM
  squares[$ru * THREADS + thread] = squares_$r;
#end
#end
  workgroupBarrier();

  // Four neighbouring columns of one row a thread.
  let row = thread / (OUTPUTS / 4u);
  let first = 4u * (thread % (OUTPUTS / 4u));
  if (row >= ROWS || first_row + row >= p.M) { return; }
  var v = vec4<f32>();
  for (var i = 0u; i < LANES; i++) {
    let at = row * THREADS + first * LANES + i;
    v += vec4(sums[at], sums[at + LANES], sums[at + 2u * LANES], sums[at + 3u * LANES]);
  }
#if NORM
  var square_sum = 0.0;
  for (var i = 0u; i < LANES; i++) { square_sum += squares[row * THREADS + i]; }
  v *= inverseSqrt(square_sum / f32(p.K) + 1e-5);
#end
  let start = (first_row + row) * p.N;
  let at = start + first_column + first;
  if (at >= start + p.N) { return; }
  store_fused(at, start + p.N, v);
}
