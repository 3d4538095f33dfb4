// What attention.wgsl and attention_backward.wgsl share. A workgroup of 128 threads holds one head of 64 rows (queries, or keys)
// against 32 others at a time. All products between the two are one loop over workgroup memory, of which a thread takes 4 × 4
// results: a mat4x4 whose column j has the thread's four rows against the j-th of its four columns.
//
//   scores   left [d][64 rows] · right [d][32 others]            both transposed on the way in, DEPTH of D at a time
//   sums     left [other][64 rows] · right [other][32 of D]      left holds weights that come from the scores
//
// Number 4·k4 + c of the first index lies at [c][k4], and rows are one vec4 longer than needed: eight threads that store or load
// together hit eight different banks. A thread does 16 multiply-adds with 2 vec4 loads. Workgroup memory 15 KiB, whatever D.

var<workgroup> left: array<array<array<vec4<f32>, 17>, 8>, 4>;
var<workgroup> right: array<array<array<vec4<f32>, 9>, 8>, 4>;
var<workgroup> partial: array<array<vec4<f32>, 16>, 8>;

const DEPTH4 = DEPTH / 4u;
const FOUR = vec4(0u, 1u, 2u, 3u);

// Which matrix a row is taken from: three of qkv, and d_out.
const QUERY = 0u;
const KEY = 1u;
const VALUE = 2u;
const D_OUT = 3u;

// First element of a row's part of qkv for a head of queries; GROUP of them share one of keys and values.
fn head_start(row: u32, which: u32, head: u32) -> u32 {
  let shared_width = p.E / GROUP;
  let start = row * (p.E + 2u * shared_width);
  if (which == QUERY) { return start + head * D; }
  return start + p.E + (which - 1u) * shared_width + (head / GROUP) * D;
}

// Quad d of one head in a row; zero from D on. A row beyond the last is the last: what comes of it is masked, or not stored.
fn head_quad(row: u32, which: u32, head: u32, d: u32) -> vec4<f32> {
  let r = min(row, p.T - 1u);
#if BACKWARD
  if (which == D_OUT) {
    let start = r * p.E + head * D;
    return d_out_quad(start + 4u * d, start + D);
  }
#end
  let start = head_start(r, which, head);
  return qkv_quad(start + 4u * d, start + D);
}

fn head_block(row: u32, which: u32, head: u32, d: u32) -> mat4x4<f32> {
  return mat4x4(head_quad(row, which, head, d), head_quad(row + 1u, which, head, d),
    head_quad(row + 2u, which, head, d), head_quad(row + 3u, which, head, d));
}

// left = [d][row] for 64 rows from `first` on, right = [d][other] for 32 others, of the `part`-th DEPTH of D.
fn turn(first: u32, which: u32, others: u32, which_other: u32, head: u32, part: u32, thread: u32) {
  let i = thread / 8u;
  let k4 = thread % 8u;
  if (k4 >= DEPTH4) { return; }
  let block = transpose(head_block(first + 4u * i, which, head, part * DEPTH4 + k4));
#for c in 0..4
  left[$c][k4][i] = block[$c];
#end
  if (i >= 8u) { return; }
  let other_block = transpose(head_block(others + 4u * i, which_other, head, part * DEPTH4 + k4));
#for c in 0..4
  right[$c][k4][i] = other_block[$c];
#end
}

// right = [other][d] for 32 others from `first` on, of the `part`-th 32 of D.
fn lay(first: u32, which: u32, head: u32, part: u32, thread: u32) {
  let i = thread % 8u;
  let k4 = thread / 8u;
  if (k4 >= 8u) { return; }
  let block = head_block(first + 4u * k4, which, head, 8u * part + i);
#for c in 0..4
  right[$c][k4][i] = block[$c];
#end
}

// t + left · right over the first 4·depth4 of their common index.
fn multiply(t: mat4x4<f32>, depth4: u32, row: u32, column: u32) -> mat4x4<f32> {
  var sum = t;
  for (var k4 = 0u; k4 < depth4; k4++) {
#for c in 0..4
    {
      let l = left[$c][k4][row];
      let r = right[$c][k4][column];
      sum[0] = fma(l, vec4(r.x), sum[0]);
      sum[1] = fma(l, vec4(r.y), sum[1]);
      sum[2] = fma(l, vec4(r.z), sum[2]);
      sum[3] = fma(l, vec4(r.w), sum[3]);
    }
#end
  }
  return sum;
}

// A weight a row and other, for `multiply` to sum with.
fn weigh(t: mat4x4<f32>, row: u32, column: u32) {
#for j in 0..4
  left[$j][column][row] = t[$j];
#end
}

// Row i of what a thread holds: a quad of the result.
fn row_of(t: mat4x4<f32>, i: u32) -> vec4<f32> { return vec4(t[0][i], t[1][i], t[2][i], t[3][i]); }

fn sum_of(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return a + b; }
fn max_of(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return max(a, b); }

// Sums, or maxima, of four rows over the eight threads that share them. There is a barrier between one call and the next.
#for o in sum max
fn rows_$o(value: vec4<f32>, row: u32, column: u32) -> vec4<f32> {
  partial[column][row] = value;
  workgroupBarrier();
  var total = partial[0][row];
#for t in 1..8
  total = $o_of(total, partial[$t][row]);
#end
  return total;
}
#end

fn positions_of(rows: vec4<u32>) -> vec4<u32> {
  let r = min(rows, vec4(p.T - 1u));
  return vec4(positions_load(r.x), positions_load(r.y), positions_load(r.z), positions_load(r.w));
}
