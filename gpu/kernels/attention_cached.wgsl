// Attention of a decoding step.  qkv: [N, 3E]   cache: [sequences · B, 2E], row s·B + p: key then value of position p   out: [N, E]
// STORE: row r's key and value go to their place in the cache: N·2E elements copied. A call of its own, since rows of one
//   sequence (a prompt) see each other.
// Otherwise a workgroup takes a row and a head, a thread every THREADS-th position: it keeps its own running maximum, sum
//   and weighted values in registers; at the end the threads' results are rescaled to the common maximum and added
//   up in workgroup memory, in order.
// Cost for a row at position p: 4·p·E flops, reads 2·p·E elements: bandwidth of the cache decides.
// Registers 2·D + 20; workgroup memory THREADS·D·4 bytes, 16 KiB at most.

#if STORE
@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= p.N) { return; }
  let from_ = (3u * row + 1u) * p.E;
  let to = (sequences_load(row) * p.B + positions_load(row)) * 2u * p.E;
  for (var i = 4u * thread; i < 2u * p.E; i += 256u) {
    cache_store_quad(to + i, to + 2u * p.E, qkv_quad(from_ + i, from_ + 2u * p.E));
  }
}
#else
const LOWEST = -3.0e38;
// Threads that add up one quad of D together.
const SLICES = THREADS / QUADS;

var<workgroup> partial: array<vec4<f32>, THREADS * QUADS>;
var<workgroup> sliced: array<vec4<f32>, SLICES * QUADS>;

fn kernel(group: vec3<u32>, groups: vec3<u32>, thread: u32) {
  let row = group.x;
  let head = group.y;
  let q_start = 3u * row * p.E + head * D;
  let line = sequences_load(row) * p.B;
#for d in 0..QUADS
  let q_$d = qkv_quad(q_start + 4u * $du, q_start + D) * p.scale;
  var sum_$d = vec4<f32>();
#end
  var largest = LOWEST;
  var total = 0.0;
  let last = positions_load(row);
  for (var position = thread; position <= last; position += THREADS) {
    let key = (line + position) * 2u * p.E + head * D;
    let value = key + p.E;
    var s = 0.0;
#for d in 0..QUADS
    s += dot(q_$d, cache_quad(key + 4u * $du, key + D));
#end
    let larger = max(largest, s);
    let shrink = exp(largest - larger);
    let w = exp(s - larger);
    total = total * shrink + w;
    largest = larger;
#for d in 0..QUADS
    sum_$d = sum_$d * shrink + w * cache_quad(value + 4u * $du, value + D);
#end
  }
  let row_max = workgroup_max_f32(largest, thread);
  let share = exp(largest - row_max);
  let row_total = workgroup_sum_f32(total * share, thread);
#for d in 0..QUADS
  partial[$du * THREADS + thread] = sum_$d * share;
#end
  workgroupBarrier();
  let d = thread % QUADS;
  let slice = thread / QUADS;
  if (slice < SLICES) {
    var sum = vec4<f32>();
    for (var i = slice; i < THREADS; i += SLICES) { sum += partial[d * THREADS + i]; }
    sliced[slice * QUADS + d] = sum;
  }
  workgroupBarrier();
  if (thread >= QUADS) { return; }
  var sum = vec4<f32>();
  for (var i = 0u; i < SLICES; i++) { sum += sliced[i * QUADS + thread]; }
  let start = row * p.E + head * D;
  out_store_quad(start + 4u * thread, start + D, sum / row_total);
}
#end
