// What the adapter can do at best, as the yardstick of the other kernels.
// COPY:      destination[i] = source[i], a vec4 a thread: reads and writes 16 bytes each, nothing else.
// Otherwise: 8 independent chains of vec4 multiply-adds in registers, 64 · 8 · 4 · 2 = 4096 flops a thread and round, no memory but
//            one store at the end, which keeps the compiler from leaving the work out.

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let at = (group.x + group.y * groups.x) * 256u + thread;
#if COPY
  if (4u * at < p.n) { destination_store_quad(4u * at, p.n, source_quad(4u * at, p.n)); }
#else
  let factor = vec4(p.factor);
#for c in 0..8
  var sum_$c = vec4(f32(at) * 1e-9 + $c.0);
#end
  for (var round = 0u; round < p.rounds; round++) {
    for (var i = 0u; i < 8u; i++) {
#for u in 0..8
#for c in 0..8
      sum_$c = fma(sum_$c, factor, vec4($u.5));
#end
#end
    }
  }
  var total = vec4<f32>();
#for c in 0..8
  total += sum_$c;
#end
  destination_store_quad(4u * (at % 64u), p.n, total);
#end
}
