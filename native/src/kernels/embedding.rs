//! Embedding.  x[t] = rmsnorm(wte[token] + wpe[position]).  x: [T, E]  wte: [V, E]  wpe: [B, E]
//! Lookup.  x[t] = table[token].  x: [T, E]  table: [V, E]
//!
//! Backward first computes the gradient of each token's sum into scratch [T, E], then adds up, for each token id and each
//! position that occurs, its rows in the order of the batch: parallel over ids, no atomics, and the same bits
//! whatever the number of threads. Moves about 8 · T · E elements; rows of ids that do not occur are not touched.

use super::batch::{Batch, Gather};
use super::norm::{normalise, normalise_backward};
use super::shared::{Shared, part_of};
use super::simd::{Simd, dispatched, map_vectors};
use super::{GRAIN, chunks_for, for_rows, span};
use crate::device::with_device;
use crate::handles::Table;
use crate::pool::Pool;
use crate::tensors::as_u32s;

/// x = rmsnorm(wte[token] + wpe[position]) for consecutive rows.
#[inline(always)]
fn embed_rows<S: Simd>(
    simd: S,
    x: &mut [f32],
    tokens: &[u32],
    positions: &[u32],
    wte: &[f32],
    wpe: &[f32],
    cols: usize,
) {
    for ((x, &token), &position) in x.chunks_exact_mut(cols).zip(tokens).zip(positions) {
        add_rows(simd, x, wte, token, wpe, position);
        normalise(simd, x);
    }
}
dispatched!(embed_rows(x: &mut [f32], tokens: &[u32], positions: &[u32], wte: &[f32], wpe: &[f32], cols: usize));

/// sum = wte[token] + wpe[position]
#[inline(always)]
fn add_rows<S: Simd>(simd: S, sum: &mut [f32], wte: &[f32], token: u32, wpe: &[f32], position: u32) {
    let row = |table: &'_ [f32], i: u32| -> *const [f32] {
        &raw const table[i as usize * sum.len()..][..sum.len()]
    };
    // SAFETY: the two rows were just checked to lie within their tables.
    let (token, position) = unsafe { (&*row(wte, token), &*row(wpe, position)) };
    map_vectors(
        simd,
        sum,
        [token, position],
        #[inline(always)]
        |_, [t, p]| simd.add_f32s(t, p),
    );
}

/// gradient[t] = the gradient of the embedding sum of each token, for consecutive tokens.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn sum_gradients<S: Simd>(
    simd: S,
    gradient: &mut [f32],
    dx: &[f32],
    tokens: &[u32],
    positions: &[u32],
    wte: &[f32],
    wpe: &[f32],
    sum: &mut [f32],
) {
    let cols = sum.len();
    let rows = gradient.chunks_exact_mut(cols).zip(dx.chunks_exact(cols));
    for ((gradient, dx), (&token, &position)) in rows.zip(tokens.iter().zip(positions)) {
        add_rows(simd, sum, wte, token, wpe, position);
        gradient.fill(0.0);
        normalise_backward(simd, gradient, dx, sum);
    }
}
dispatched!(sum_gradients(gradient: &mut [f32], dx: &[f32], tokens: &[u32], positions: &[u32], wte: &[f32], wpe: &[f32], sum: &mut [f32]));

#[inline(always)]
fn add_to_row<S: Simd>(simd: S, row: &mut [f32], gradient: &[f32]) {
    map_vectors(
        simd,
        row,
        [gradient],
        #[inline(always)]
        |row, [g]| simd.add_f32s(row, g),
    );
}
dispatched!(add_to_row(row: &mut [f32], gradient: &[f32]));

/// table[key] += Σ gradient[rows of key], in the order of the rows.
fn gather(pool: &mut Pool, table: &mut [f32], gather: &Gather, gradient: &[f32], cols: usize) {
    let keys = gather.keys.len();
    let chunks = chunks_for(pool, gradient.len(), GRAIN).min(keys);
    let table = Shared::new(table);
    pool.run(chunks, |chunk| {
        for i in part_of(keys, 1, chunks, chunk) {
            let start = gather.keys[i] as usize * cols;
            // SAFETY: keys differ, and each belongs to one chunk.
            let row = unsafe { table.part(start..start + cols) };
            for &t in &gather.rows[gather.offsets[i] as usize..gather.offsets[i + 1] as usize] {
                let gradient = &gradient[t as usize * cols..][..cols];
                add_to_row::dispatch(row, gradient);
            }
        }
    });
}

/// Refuses ids that the tables have no rows for.
pub fn check(tokens: &[u32], vocabulary: u32, positions: &[u32], block: u32) -> Result<(), String> {
    if let Some(token) = tokens.iter().find(|&&token| token >= vocabulary) {
        return Err(format!("token {token} is not in a vocabulary of {vocabulary}"));
    }
    match positions.iter().find(|&&position| position >= block) {
        Some(position) => Err(format!("position {position} is not in a block of {block}")),
        None => Ok(()),
    }
}

fn batch_at(batches: &mut Table<Batch>, handle: u32, rows: u32) -> Result<&mut Batch, String> {
    let batch = batches.get_mut(handle)?;
    if batch.tokens.len() != rows as usize {
        return Err(format!("a batch of {} tokens for {rows} rows", batch.tokens.len()));
    }
    Ok(batch)
}

/// x [rows, cols] from the batch; wte [vocabulary, cols], wpe [block, cols].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_embed(
    device: u32,
    x: u32,
    x_at: f64,
    batch: u32,
    wte: u32,
    wte_at: f64,
    wpe: u32,
    wpe_at: f64,
    rows: u32,
    cols: u32,
    vocabulary: u32,
    block: u32,
) -> i32 {
    with_device(device, |d| {
        let batch = batch_at(&mut d.batches, batch, rows)?;
        let (tokens, positions) = (&batch.tokens[..], &batch.positions[..]);
        check(tokens, vocabulary, positions, block)?;
        let ([x], [wte, wpe]) = d.tensors.operands(
            [span(x, x_at, rows, cols)],
            [span(wte, wte_at, vocabulary, cols), span(wpe, wpe_at, block, cols)],
        )?;
        let (cols, work) = (cols as usize, x.len());
        for_rows(&mut d.pool, x, cols, work, |first, x| {
            let (tokens, positions) = (&tokens[first..], &positions[first..]);
            embed_rows::dispatch(x, tokens, positions, wte, wpe, cols);
        });
        Ok(())
    })
}

/// dWte [vocabulary, cols] and dWpe [block, cols] grow by the gradient of `mg_cpu_embed` for dx [rows, cols].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_embed_backward(
    device: u32,
    d_wte: u32,
    d_wte_at: f64,
    d_wpe: u32,
    d_wpe_at: f64,
    dx: u32,
    dx_at: f64,
    batch: u32,
    wte: u32,
    wte_at: f64,
    wpe: u32,
    wpe_at: f64,
    rows: u32,
    cols: u32,
    vocabulary: u32,
    block: u32,
) -> i32 {
    with_device(device, |d| {
        let Batch { tokens, positions, by_token, by_position, embedding_gradient, .. } =
            batch_at(&mut d.batches, batch, rows)?;
        check(tokens, vocabulary, positions, block)?;
        let tables = [span(d_wte, d_wte_at, vocabulary, cols), span(d_wpe, d_wpe_at, block, cols)];
        d.tensors.touch_rows(tables[0], &by_token.keys, cols as usize)?;
        d.tensors.touch_rows(tables[1], &by_position.keys, cols as usize)?;
        let ([d_wte, d_wpe], [dx, wte, wpe]) = d.tensors.scattered_operands(
            tables,
            [
                span(dx, dx_at, rows, cols),
                span(wte, wte_at, vocabulary, cols),
                span(wpe, wpe_at, block, cols),
            ],
        )?;
        let cols = cols as usize;
        embedding_gradient.resize(dx.len(), 0.0);
        for_rows(&mut d.pool, embedding_gradient, cols, 2 * dx.len(), |first, gradient| {
            let dx = &dx[first * cols..][..gradient.len()];
            let (tokens, positions) = (&tokens[first..], &positions[first..]);
            let mut sum = vec![0.0; cols];
            sum_gradients::dispatch(gradient, dx, tokens, positions, wte, wpe, &mut sum);
        });
        gather(&mut d.pool, d_wte, by_token, embedding_gradient, cols);
        gather(&mut d.pool, d_wpe, by_position, embedding_gradient, cols);
        Ok(())
    })
}

/// x [rows, cols] for decoding: row r is token tokens[r] at position positions[r].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_embed_rows(
    device: u32,
    x: u32,
    x_at: f64,
    tokens: u32,
    tokens_at: f64,
    positions: u32,
    positions_at: f64,
    wte: u32,
    wte_at: f64,
    wpe: u32,
    wpe_at: f64,
    rows: u32,
    cols: u32,
    vocabulary: u32,
    block: u32,
) -> i32 {
    with_device(device, |d| {
        let ([x], [tokens, positions, wte, wpe]) = d.tensors.operands(
            [span(x, x_at, rows, cols)],
            [
                span(tokens, tokens_at, rows, 1),
                span(positions, positions_at, rows, 1),
                span(wte, wte_at, vocabulary, cols),
                span(wpe, wpe_at, block, cols),
            ],
        )?;
        let (tokens, positions, cols) = (as_u32s(tokens), as_u32s(positions), cols as usize);
        check(tokens, vocabulary, positions, block)?;
        if cols == 0 {
            return Err("an embedding has at least one column".into());
        }
        embed_rows::dispatch(x, tokens, positions, wte, wpe, cols);
        Ok(())
    })
}

/// x = table[token] for consecutive rows.
fn look_up(pool: &mut Pool, x: &mut [f32], tokens: &[u32], table: &[f32], cols: usize) {
    let work = x.len();
    for_rows(pool, x, cols, work, |first, x| {
        for (x, &token) in x.chunks_exact_mut(cols).zip(&tokens[first..]) {
            x.copy_from_slice(&table[token as usize * cols..][..cols]);
        }
    });
}

/// x [rows, cols] from the batch's tokens; table [vocabulary, cols].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_lookup(
    device: u32,
    x: u32,
    x_at: f64,
    batch: u32,
    table: u32,
    table_at: f64,
    rows: u32,
    cols: u32,
    vocabulary: u32,
) -> i32 {
    with_device(device, |d| {
        let tokens = &batch_at(&mut d.batches, batch, rows)?.tokens[..];
        check(tokens, vocabulary, &[], 0)?;
        let ([x], [table]) =
            d.tensors.operands([span(x, x_at, rows, cols)], [span(table, table_at, vocabulary, cols)])?;
        look_up(&mut d.pool, x, tokens, table, cols as usize);
        Ok(())
    })
}

/// dTable [vocabulary, cols] grows by the gradient of `mg_cpu_lookup` for dx [rows, cols].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_lookup_backward(
    device: u32,
    d_table: u32,
    d_table_at: f64,
    dx: u32,
    dx_at: f64,
    batch: u32,
    rows: u32,
    cols: u32,
    vocabulary: u32,
) -> i32 {
    with_device(device, |d| {
        let Batch { tokens, by_token, .. } = batch_at(&mut d.batches, batch, rows)?;
        check(tokens, vocabulary, &[], 0)?;
        let table = span(d_table, d_table_at, vocabulary, cols);
        d.tensors.touch_rows(table, &by_token.keys, cols as usize)?;
        let ([d_table], [dx]) = d.tensors.scattered_operands([table], [span(dx, dx_at, rows, cols)])?;
        gather(&mut d.pool, d_table, by_token, dx, cols as usize);
        Ok(())
    })
}

/// x [rows, cols] for decoding: row r is token tokens[r].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_lookup_rows(
    device: u32,
    x: u32,
    x_at: f64,
    tokens: u32,
    tokens_at: f64,
    table: u32,
    table_at: f64,
    rows: u32,
    cols: u32,
    vocabulary: u32,
) -> i32 {
    with_device(device, |d| {
        let ([x], [tokens, table]) = d.tensors.operands(
            [span(x, x_at, rows, cols)],
            [span(tokens, tokens_at, rows, 1), span(table, table_at, vocabulary, cols)],
        )?;
        let tokens = as_u32s(tokens);
        check(tokens, vocabulary, &[], 0)?;
        look_up(&mut d.pool, x, tokens, table, cols as usize);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::batch::batch_of;

    #[test]
    fn rows_of_one_id_are_added_in_order() {
        let batch = batch_of(&[3, 40, 7], 5);
        let cols = 20;
        let gradient: Vec<f32> = (0..50 * cols).map(|i| ((i * 31) % 17) as f32 - 8.0).collect();
        for threads in [1, 3] {
            let mut pool = Pool::new(threads).unwrap();
            let mut table = vec![1.0; 5 * cols];
            gather(&mut pool, &mut table, &batch.by_token, &gradient, cols);
            let mut expected = vec![1.0; 5 * cols];
            for (t, &token) in batch.tokens.iter().enumerate() {
                for i in 0..cols {
                    expected[token as usize * cols + i] += gradient[t * cols + i];
                }
            }
            assert_eq!(table, expected);
        }
    }

    #[test]
    fn ids_beyond_the_tables_are_refused() {
        assert!(check(&[96], 97, &[39], 40).is_ok());
        assert!(check(&[97], 97, &[0], 40).is_err());
        assert!(check(&[0], 97, &[40], 40).is_err());
    }
}
