// What products do with four sums of a row before they store them; put in front of matmul.wgsl, matvec.wgsl and split_k.wgsl.
// `at` is the place in out, `end` the end of its row.

fn store_fused(at: u32, end: u32, sums: vec4<f32>) {
  var v = sums;
#if ADD
  v += add_quad(at, end);
#end
#if ACCUMULATE
  v += out_quad(at, end);
#end
  if (p.relu == 1u) { v = max(v, vec4<f32>()); }
#if MASK
  v = select(vec4<f32>(), v, mask_quad(at, end) > vec4<f32>());
#end
  out_store_quad(at, end, v);
}
