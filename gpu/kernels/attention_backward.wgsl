// Backward of attention.wgsl: dqkv [T, 3E] from d_out [T, E], out [T, E], lse [T, H] and qkv [T, 3E]. With
// p = exp(q·k/√D − lse), delta = d_out · out and ds = p · (d_out·v − delta):   dq = Σ ds·k/√D,   dk = Σ ds·q/√D,   dv = Σ p·d_out.
// Scores are computed again rather than kept (Dao et al. 2022). Two kernels, so that each result has one thread that adds it up:
//
// QUERIES: a thread a query, 64 a workgroup; keys and values pass through workgroup memory; leaves dq and delta [T, H].
// Otherwise: a thread a key and role, 64 keys a workgroup. Queries from the block's first key on pass through workgroup memory
//   with d_out, lse and delta. Role 0 sums dv, role 1 dk; computing the scores in both costs 5/4 of the flops, but keeps
//   3·D instead of 4·D registers a thread and gives twice the threads. A role is a whole number of SIMD groups: no divergence.
//
// Cost for a document of n tokens and one head: 3·n²·D and 5·n²·D flops, each with n²·D/32 elements read.
// Registers 3·D + 20; workgroup memory 2·ROWS·D·4 bytes, 8 KiB at most.

const BLOCK = 64u;

var<workgroup> left: array<vec4<f32>, 2u * ROWS * QUADS>;

fn head_quad(row: u32, which: u32, head: u32, d: u32) -> vec4<f32> {
  let start = (3u * row + which) * p.E + head * D;
  return qkv_quad(start + 4u * d, start + D);
}

fn d_out_head_quad(row: u32, head: u32, d: u32) -> vec4<f32> {
  let start = row * p.E + head * D;
  return d_out_quad(start + 4u * d, start + D);
}

#if QUERIES
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let begin = items_load(3u * group.x);
  let end = items_load(3u * group.x + 1u);
  let first = items_load(3u * group.x + 2u);
  let head = group.y;
  let query = min(first + thread, end - 1u);
  let start = query * p.E + head * D;
  var delta_sum = 0.0;
#for d in 0..QUADS
  let q_$d = head_quad(query, 0u, head, $du) * p.scale;
  let g_$d = d_out_quad(start + 4u * $du, start + D);
  delta_sum += dot(g_$d, out_quad(start + 4u * $du, start + D));
  var sum_$d = vec4<f32>();
#end
  let log_sum = lse_load(query * p.H + head);

  let last = min(first + BLOCK, end);
  for (var tile = begin; tile < last; tile += ROWS) {
    let count = min(ROWS, last - tile);
    workgroupBarrier();
    for (var i = thread; i < count * QUADS; i += BLOCK) {
      let row = tile + i / QUADS;
      left[i] = head_quad(row, 1u, head, i % QUADS);
      left[ROWS * QUADS + i] = head_quad(row, 2u, head, i % QUADS);
    }
    workgroupBarrier();
    for (var j = 0u; j < count; j += 4u) {
      let at = j * QUADS;
      let at_v = ROWS * QUADS + at;
      var s = vec4<f32>();
      var dp = vec4<f32>();
#for d in 0..QUADS
      s += vec4(
        dot(q_$d, left[at + $du]), dot(q_$d, left[at + QUADS + $du]),
        dot(q_$d, left[at + 2u * QUADS + $du]), dot(q_$d, left[at + 3u * QUADS + $du]));
      dp += vec4(
        dot(g_$d, left[at_v + $du]), dot(g_$d, left[at_v + QUADS + $du]),
        dot(g_$d, left[at_v + 2u * QUADS + $du]), dot(g_$d, left[at_v + 3u * QUADS + $du]));
#end
      let seen = vec4(tile + j) + vec4(0u, 1u, 2u, 3u) <= vec4(query);
      let ds = select(vec4<f32>(), exp(s - log_sum) * (dp - delta_sum), seen);
#for d in 0..QUADS
      sum_$d += ds.x * left[at + $du] + ds.y * left[at + QUADS + $du] +
        ds.z * left[at + 2u * QUADS + $du] + ds.w * left[at + 3u * QUADS + $du];
#end
    }
  }

  if (first + thread >= end) { return; }
  let to = 3u * query * p.E + head * D;
#for d in 0..QUADS
  dqkv_store_quad(to + 4u * $du, to + D, sum_$d * p.scale);
#end
  delta[p.delta_base + query * p.H + head] = delta_sum;
}
#else
// (lse, delta) of the queries in `left`
var<workgroup> stats: array<vec2<f32>, ROWS>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let end = items_load(3u * group.x + 1u);
  let first = items_load(3u * group.x + 2u);
  let head = group.y;
  let sums_dk = thread >= BLOCK;
  let key_place = first + thread % BLOCK;
  let key = min(key_place, end - 1u);
#for d in 0..QUADS
  let k_$d = head_quad(key, 1u, head, $du) * p.scale;
  let v_$d = head_quad(key, 2u, head, $du);
  var sum_$d = vec4<f32>();
#end
  // What this thread's sum is made of: d_out for dv, q for dk.
  let summand = select(ROWS * QUADS, 0u, sums_dk);

  for (var tile = first; tile < end; tile += ROWS) {
    let count = min(ROWS, end - tile);
    workgroupBarrier();
    for (var i = thread; i < count * QUADS; i += 2u * BLOCK) {
      let row = tile + i / QUADS;
      left[i] = head_quad(row, 0u, head, i % QUADS);
      left[ROWS * QUADS + i] = d_out_head_quad(row, head, i % QUADS);
    }
    if (thread < count) {
      let at = (tile + thread) * p.H + head;
      stats[thread] = vec2(lse_load(at), delta_load(at));
    }
    workgroupBarrier();
    for (var j = 0u; j < count; j += 4u) {
      let at = j * QUADS;
      let at_g = ROWS * QUADS + at;
      var s = vec4<f32>();
#for d in 0..QUADS
      s += vec4(
        dot(k_$d, left[at + $du]), dot(k_$d, left[at + QUADS + $du]),
        dot(k_$d, left[at + 2u * QUADS + $du]), dot(k_$d, left[at + 3u * QUADS + $du]));
#end
      let log_sum = vec4(stats[j].x, stats[j + 1u].x, stats[j + 2u].x, stats[j + 3u].x);
      let query = vec4(tile + j) + vec4(0u, 1u, 2u, 3u);
      var w = select(vec4<f32>(), exp(s - log_sum), (query >= vec4(key)) & (query < vec4(end)));
      if (sums_dk) {
        var dp = vec4<f32>();
#for d in 0..QUADS
        dp += vec4(
          dot(v_$d, left[at_g + $du]), dot(v_$d, left[at_g + QUADS + $du]),
          dot(v_$d, left[at_g + 2u * QUADS + $du]), dot(v_$d, left[at_g + 3u * QUADS + $du]));
#end
        w *= dp - vec4(stats[j].y, stats[j + 1u].y, stats[j + 2u].y, stats[j + 3u].y);
      }
      let from_ = summand + at;
#for d in 0..QUADS
      sum_$d += w.x * left[from_ + $du] + w.y * left[from_ + QUADS + $du] +
        w.z * left[from_ + 2u * QUADS + $du] + w.w * left[from_ + 3u * QUADS + $du];
#end
    }
  }

  if (key_place >= end) { return; }
  let to = (3u * key + select(2u, 1u, sums_dk)) * p.E + head * D;
  let factor = select(1.0, p.scale, sums_dk);
#for d in 0..QUADS
  dqkv_store_quad(to + 4u * $du, to + D, sum_$d * factor);
#end
}
#end
