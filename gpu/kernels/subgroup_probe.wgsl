// All reductions of reduce.wgsl at once, on numbers whose results are known exactly.   values: u32 [THREADS], below 2^16
// out: u32 [6], sum, maximum and minimum of the values as f32, then the same as u32. One workgroup.

fn kernel(group: vec3<u32>, groups: vec3<u32>, thread: u32) {
  let value = values_load(thread);
  let sum = workgroup_sum_f32(f32(value), thread);
  let largest = workgroup_max_f32(f32(value), thread);
  let smallest = workgroup_min_f32(f32(value), thread);
  let integer_sum = workgroup_sum_u32(value, thread);
  let integer_largest = workgroup_max_u32(value, thread);
  let integer_smallest = workgroup_min_u32(value, thread);
  // The last thread writes the result, which every thread must have.
  if (thread == THREADS - 1u) {
    out_store(0u, u32(sum));
    out_store(1u, u32(largest));
    out_store(2u, u32(smallest));
    out_store(3u, integer_sum);
    out_store(4u, integer_largest);
    out_store(5u, integer_smallest);
  }
}
