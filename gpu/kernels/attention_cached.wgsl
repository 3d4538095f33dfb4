// Attention of a decoding step.  qkv: [N, E + 2W]   cache: [sequences · B, 2W], row s·B + p: key then value of position p   out: [N, E]
// E = H·D; GROUP heads of queries share one of keys and values, W = E / GROUP.
// A workgroup takes a row and a head. The first of a group puts the row's key and value into the cache. It attends with a thread on every
// THREADS-th position: each keeps its own running maximum, sum and weighted values in registers; at the end the threads' results
// are rescaled to the common maximum and added up in workgroup memory, in order.
// Rows of one sequence are neighbours at consecutive positions (a prompt). What this call itself puts into the cache is
// read from qkv, since other workgroups may not have written it yet.
// Cost for a row at position p: 4·p·E flops, reads 2·p·E elements: bandwidth of the cache decides.
// Registers 2·D + 20; workgroup memory THREADS·D·4 bytes, 16 KiB at most, and 3 KiB.

const LOWEST = -3.0e38;
// Threads that add up one quad of D together.
const SLICES = THREADS / QUADS;

var<workgroup> partial: array<vec4<f32>, THREADS * QUADS>;
var<workgroup> sliced: array<vec4<f32>, SLICES * QUADS>;

fn key_or_value(is_fresh: bool, i: u32, end: u32) -> vec4<f32> {
  if (is_fresh) { return qkv_quad(i, end); }
  return cache_quad(i, end);
}

fn kernel(group: vec3<u32>, groups: vec3<u32>, thread: u32) {
  let row = group.x + group.z * groups.x;
  if (row >= p.N) { return; }
  let head = group.y;
  let width = p.E / GROUP;
  let stride = p.E + 2u * width;
  let shared_head = (head / GROUP) * D;
  let q_start = row * stride + head * D;
  let sequence = sequences_load(row);
  let last = positions_load(row);
  // Rows of this sequence up to this one.
  var fresh = 1u;
  while (fresh <= row && sequences_load(row - fresh) == sequence) { fresh++; }

  if (thread < QUADS && head % GROUP == 0u) {
    let from_ = row * stride + p.E + shared_head;
    let to = (sequence * p.B + last) * 2u * width + shared_head;
    cache_store_quad(to + 4u * thread, to + D, qkv_quad(from_ + 4u * thread, from_ + D));
    cache_store_quad(to + width + 4u * thread, to + width + D, qkv_quad(from_ + width + 4u * thread, from_ + width + D));
  }
#for d in 0..QUADS
  let q_$d = qkv_quad(q_start + 4u * $du, q_start + D) * p.scale;
  var sum_$d = vec4<f32>();
#end
  var largest = LOWEST;
  var total = 0.0;
  for (var position = thread; position <= last; position += THREADS) {
    let is_fresh = last - position < fresh;
    let key = select(
      (sequence * p.B + position) * 2u * width,
      (row - min(last - position, row)) * stride + p.E,
      is_fresh) + shared_head;
    let value = key + width;
    var s = 0.0;
#for d in 0..QUADS
    s += dot(q_$d, key_or_value(is_fresh, key + 4u * $du, key + D));
#end
    let larger = max(largest, s);
    let shrink = exp(largest - larger);
    let w = exp(s - larger);
    total = total * shrink + w;
    largest = larger;
#for d in 0..QUADS
    sum_$d = sum_$d * shrink + w * key_or_value(is_fresh, value + 4u * $du, value + D);
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
