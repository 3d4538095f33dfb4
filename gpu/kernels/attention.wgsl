// Causal attention within each document, running softmax (FlashAttention: Dao et al. 2022), no T × T matrix.
// qkv: [T, 3E]   out: [T, E]   lse: [T, H] f32, log-sum-exp of the scaled scores
// items: (begin, end, first) for every block of 64 queries of a document: its tokens are begin … end − 1, the block starts at first.
//
// A workgroup takes one item and one head, a thread one query: its q and its sum of values in registers. Keys and values pass
// through workgroup memory, KEYS at a time, so that memory is read once for 64 queries; four scores at a time share one
// rescaling of the sum. All threads read the same key at once: a broadcast without bank conflicts.
//
// Cost for a document of n tokens and one head: 2·n²·D flops, and 2·n²·D/64 elements read, n·D written.
// Registers: 2·D + 20. Workgroup memory: 2·KEYS·D·4 bytes, 8 KiB at most.

const BLOCK = 64u;
const LOWEST = -3.0e38;

var<workgroup> keys: array<vec4<f32>, KEYS * QUADS>;
var<workgroup> values: array<vec4<f32>, KEYS * QUADS>;

// Quad d of one head's query (which = 0), key (1) or value (2) of a row.
fn head_quad(row: u32, which: u32, head: u32, d: u32) -> vec4<f32> {
  let start = (3u * row + which) * p.E + head * D;
  return qkv_quad(start + 4u * d, start + D);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let begin = items_load(3u * group.x);
  let end = items_load(3u * group.x + 1u);
  let first = items_load(3u * group.x + 2u);
  let head = group.y;
  let query = min(first + thread, end - 1u);
#for d in 0..QUADS
  let q_$d = head_quad(query, 0u, head, $du) * p.scale;
  var sum_$d = vec4<f32>();
#end
  var largest = LOWEST;
  var total = 0.0;

  let last = min(first + BLOCK, end);
  for (var tile = begin; tile < last; tile += KEYS) {
    // A document of a few tokens does not pay for a whole tile; the last quad of keys may hold old ones, which are masked.
    let count = min(KEYS, last - tile);
    workgroupBarrier();
    for (var i = thread; i < count * QUADS; i += BLOCK) {
      let row = tile + i / QUADS;
      keys[i] = head_quad(row, 1u, head, i % QUADS);
      values[i] = head_quad(row, 2u, head, i % QUADS);
    }
    workgroupBarrier();
    for (var j = 0u; j < count; j += 4u) {
      let at = j * QUADS;
      var s = vec4<f32>();
#for d in 0..QUADS
      s += vec4(
        dot(q_$d, keys[at + $du]), dot(q_$d, keys[at + QUADS + $du]),
        dot(q_$d, keys[at + 2u * QUADS + $du]), dot(q_$d, keys[at + 3u * QUADS + $du]));
#end
      s = select(vec4(LOWEST), s, vec4(tile + j) + vec4(0u, 1u, 2u, 3u) <= vec4(query));
      let larger = max(largest, max(max(s.x, s.y), max(s.z, s.w)));
      let shrink = exp(largest - larger);
      let w = exp(s - larger);
      total = total * shrink + dot(w, vec4(1.0));
      largest = larger;
#for d in 0..QUADS
      sum_$d = sum_$d * shrink + w.x * values[at + $du] + w.y * values[at + QUADS + $du] +
        w.z * values[at + 2u * QUADS + $du] + w.w * values[at + 3u * QUADS + $du];
#end
    }
  }

  if (first + thread >= end) { return; }
  let start = query * p.E + head * D;
#for d in 0..QUADS
  out_store_quad(start + 4u * $du, start + D, sum_$d / total);
#end
  lse[p.lse_base + query * p.H + head] = largest + log(total);
}
