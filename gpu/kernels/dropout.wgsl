// out = add + x · kept / (1 − rate): element i is kept where draw i of the key reaches `threshold`.   out, x: n elements   add: f32
// IN_PLACE: x is out. Every place of the network has a key of its own. A thread takes four: reads n to 2n, writes n, two hashes
// an element.

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = 4u * ((group.x + group.y * groups.x) * 256u + thread);
  if (i >= p.n) { return; }
#if IN_PLACE
  let x = out_quad(i, p.n);
#else
  let x = x_quad(i, p.n);
#end
  let drawn = vec4(
    draw_bits(p.key, i),
    draw_bits(p.key, i + 1u),
    draw_bits(p.key, i + 2u),
    draw_bits(p.key, i + 3u),
  );
  var result = select(vec4<f32>(), p.scale * x, drawn >= vec4(p.threshold));
#if ADD
  result += add_quad(i, p.n);
#end
  out_store_quad(i, p.n, result);
}
