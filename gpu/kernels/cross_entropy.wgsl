// For each row: losses[first_row + row] = weight · −log softmax(logits)[target], and
// logits = weight · loss_scale · (softmax − onehot(target)), in place, with weight = scale · weights[first_row + row], whose bits
// lie in a u32 array. With a z-loss the gradient is that of loss + weight · z_loss · log²Z, where log Z is the log of the softmax's
// divisor. All is 0 where weight is.   logits: [rows, V] f32   losses: [T, 1] f32
// One workgroup a row. First pass: each thread keeps the maximum of its quads and the sum of exp(x − maximum) beside it (online
// softmax, Milakov & Gimelshein 2018), then the threads' pairs are combined. Second pass, from cache where the row fits: gradient.
// Cost: reads 2·rows·V, writes rows·V of f32; two exp an element.

const LOWEST = -3.4e38;

fn kernel(group: vec3<u32>, groups: vec3<u32>, thread: u32) {
  let row = group.x + group.y * groups.x;
  if (row >= p.rows) { return; }
  let start = row * p.V;
  let end = start + p.V;
  let four = vec4(0u, 1u, 2u, 3u);

  var largest = LOWEST;
  var sum = 0.0;
  var target_logit = 0.0;
  let target_id = targets_load(p.first_row + row);
  for (var i = 4u * thread; i < p.V; i += 4u * THREADS) {
    let at = vec4(i) + four;
    let x = select(vec4(LOWEST), logits_quad(start + i, end), at < vec4(p.V));
    let larger = max(max(max(x.x, x.y), max(x.z, x.w)), largest);
    sum = sum * exp(largest - larger) + dot(exp(x - larger), vec4(1.0));
    largest = larger;
    target_logit += dot(select(vec4<f32>(), x, at == vec4(target_id)), vec4(1.0));
  }
  let row_max = workgroup_max_f32(largest, thread);
  let row_sum = workgroup_sum_f32(sum * exp(largest - row_max), thread);
  let log_sum = row_max + log(row_sum);
  let target_value = workgroup_sum_f32(target_logit, thread);
  let weight = p.scale * bitcast<f32>(weights_load(p.first_row + row));
  if (thread == 0u) {
    losses[p.losses_base + p.first_row + row] = select(weight * (log_sum - target_value), 0.0, weight == 0.0);
  }

  let scale = weight * control_load(1u);
  let softmax_scale = 1.0 + 2.0 * p.z_loss * log_sum;
  for (var i = 4u * thread; i < p.V; i += 4u * THREADS) {
    let onehot = select(vec4<f32>(), vec4(1.0), vec4(i) + four == vec4(target_id));
    let gradient = scale * (softmax_scale * exp(logits_quad(start + i, end) - log_sum) - onehot);
    logits_store_quad(start + i, end, select(gradient, vec4<f32>(), weight == 0.0));
  }
}
