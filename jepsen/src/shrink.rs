//! Makes something that fails smaller while it still fails: a list by delta debugging, a number by halves.
//!
//! What fails is asked of an oracle, which may be a run of minutes or a checker. It decides how often it tries, and says no
//! once its budget is used: then what is found so far stands.

use std::ops::AsyncFnMut;

/// Zeller's ddmin: a part of these items that still fails, and fails no more without any one of them, as far as the
/// oracle is reliable. The items themselves must fail; they keep their order.
pub async fn ddmin<T: Clone, E>(items: &[T], mut fails: impl AsyncFnMut(&[T]) -> Result<bool, E>) -> Result<Vec<T>, E> {
    let mut items = items.to_vec();
    // Often nothing of it matters at all.
    if !items.is_empty() && fails(&[]).await? {
        return Ok(Vec::new());
    }
    let mut parts = 2;
    while items.len() >= 2 {
        let size = items.len().div_ceil(parts);
        let mut smaller = None;
        for start in (0..items.len()).step_by(size) {
            let part = &items[start..(start + size).min(items.len())];
            if part.len() < items.len() && fails(part).await? {
                smaller = Some((part.to_vec(), 2));
                break;
            }
        }
        // With two parts the rest of one is the other, which was asked already.
        if smaller.is_none() && parts > 2 {
            for start in (0..items.len()).step_by(size) {
                let rest: Vec<T> =
                    items[..start].iter().chain(&items[(start + size).min(items.len())..]).cloned().collect();
                if fails(&rest).await? {
                    smaller = Some((rest, (parts - 1).max(2)));
                    break;
                }
            }
        }
        match smaller {
            Some((found, next)) => (items, parts) = (found, next),
            None if parts >= items.len() => break,
            None => parts = (2 * parts).min(items.len()),
        }
    }
    Ok(items)
}

/// The smallest of `least`, and the halves of `value` above it, that still fails; `value` itself must.
pub async fn lower<E>(
    mut value: u64,
    least: u64,
    mut fails: impl AsyncFnMut(u64) -> Result<bool, E>,
) -> Result<u64, E> {
    if value <= least || fails(least).await? {
        return Ok(value.min(least));
    }
    while value / 2 > least && fails(value / 2).await? {
        value /= 2;
    }
    Ok(value)
}

/// Removes items one after the other while the rest still fails, in at most so many questions: for checkers, which
/// answer at once. The last items are tried first.
pub fn greedy<T: Clone>(items: &[T], questions_max: usize, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut items = items.to_vec();
    let mut questions = 0;
    // Large pieces first, then smaller ones, down to single items; again while anything went.
    let mut size = (items.len() / 2).max(1);
    loop {
        let mut removed = false;
        let mut end = items.len();
        while end > 0 && questions < questions_max {
            let start = end.saturating_sub(size);
            let rest: Vec<T> = items[..start].iter().chain(&items[end..]).cloned().collect();
            questions += 1;
            if fails(&rest) {
                items = rest;
                removed = true;
            }
            end = start;
        }
        if questions >= questions_max || (size == 1 && !removed) {
            return items;
        }
        size = (size / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Runs ddmin on 0..count with an oracle for which exactly these items matter; returns what is left and the questions.
    fn shrink(count: u32, fails: impl Fn(&[u32]) -> bool) -> (Vec<u32>, usize) {
        let items: Vec<u32> = (0..count).collect();
        let mut asked = 0;
        let oracle = async |part: &[u32]| {
            asked += 1;
            Ok::<_, Infallible>(fails(part))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let Ok(left) = runtime.block_on(ddmin(&items, oracle));
        (left, asked)
    }

    #[test]
    fn what_matters_stays_wherever_it_is() {
        for needed in [vec![0], vec![31], vec![3, 17], vec![0, 1, 31], vec![5, 6, 7, 20, 30]] {
            let (left, asked) = shrink(32, |part| needed.iter().all(|one| part.contains(one)));
            assert_eq!(left, needed);
            assert!(asked < 200, "{asked} questions for {needed:?}");
        }
    }

    #[test]
    fn what_fails_by_itself_needs_nothing() {
        assert_eq!(shrink(10, |_| true), (vec![], 1));
    }

    #[test]
    fn one_of_several_reasons_is_enough() {
        let (left, _) = shrink(20, |part| part.contains(&4) || (part.contains(&9) && part.contains(&11)));
        assert!(left == [4] || left == [9, 11], "{left:?}");
    }

    #[test]
    fn an_order_that_matters_is_kept() {
        // A majority of three must be there: any three will do, but no two.
        let (left, _) = shrink(9, |part| part.len() >= 3 && part.is_sorted());
        assert_eq!(left.len(), 3);
        assert!(left.is_sorted());
    }

    #[test]
    fn an_oracle_that_gives_up_ends_it_with_what_was_found() {
        let mut budget = 6;
        let oracle = async |part: &[u32]| {
            if budget == 0 {
                return Ok::<_, Infallible>(false);
            }
            budget -= 1;
            Ok(part.contains(&12))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let items: Vec<u32> = (0..16).collect();
        let Ok(left) = runtime.block_on(ddmin(&items, oracle));
        assert!(left.contains(&12) && left.len() < 16, "{left:?}");
    }

    #[test]
    fn a_number_is_halved_as_long_as_it_fails() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let from = |value, least, limit| {
            let oracle = async |value: u64| Ok::<_, Infallible>(value >= limit);
            let Ok(found) = runtime.block_on(lower(value, least, oracle));
            found
        };
        assert_eq!((from(500, 1, 100), from(500, 1, 0), from(10, 1, 10), from(3, 5, 0)), (125, 1, 10, 3));
    }

    #[test]
    fn greedy_leaves_a_piece_of_which_nothing_can_go_and_keeps_to_its_questions() {
        let items: Vec<u32> = (0..200).collect();
        let needed = |part: &[u32]| [7, 80, 199].iter().all(|one| part.contains(one));
        assert_eq!(greedy(&items, 2000, needed), [7, 80, 199]);
        let mut asked = 0;
        let left = greedy(&items, 10, |part| {
            asked += 1;
            needed(part)
        });
        assert!(asked <= 10 && needed(&left));
    }
}
