// out += a.  out, a: n elements of f32. A thread takes four: reads 2n, writes n.

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = 4u * ((group.x + group.y * groups.x) * 256u + thread);
  if (i >= p.n) { return; }
  out_store_quad(i, p.n, out_quad(i, p.n) + a_quad(i, p.n));
}
