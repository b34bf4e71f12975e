//! Sets: elements as keys of their own, and elements in the list of one key that is guarded by its revision.

use super::script::{Script, Step, guarded, unchanged};
use crate::history::op::{Op, Request};
use crate::rng::Rng;

/// Elements that are keys begin so; the rest of the key is the element.
pub const KEYS: &str = "set/";
/// The key whose value lists elements, with spaces between.
pub const LIST: &str = "cas-set";
/// Elements beyond which nothing is added to the list: its value is written whole each time.
const LIST_MAX: usize = 400;

/// One client.
pub struct Set {
    rng: Rng,
    list: Option<(i64, String)>,
}

impl Set {
    /// The script of one client.
    pub fn new(rng: Rng) -> Self {
        Self { rng, list: None }
    }
}

impl Script for Set {
    fn next(&mut self, id: u64, _: u64) -> Step {
        if let Some((revision, list)) = self.list.take() {
            let value = if list.is_empty() { id.to_string() } else { format!("{list} {id}") };
            return Step::Send(guarded(vec![unchanged(LIST, revision)], vec![Request::put(LIST, value)]));
        }
        Step::Send(match self.rng.below(100) {
            0..70 => Request::put(format!("{KEYS}{id:010}"), id.to_string()),
            70..97 => Request::get(LIST),
            _ => Request::list(KEYS),
        })
    }

    fn learn(&mut self, op: &Op) {
        let (Request::Range(range), Some(reply)) = (&op.request, op.reply()) else { return };
        if range.key == LIST {
            let list = reply.kvs.first().map_or((0, String::new()), |kv| (kv.mod_revision, kv.value.clone()));
            self.list = (list.1.split(' ').count() < LIST_MAX).then_some(list);
        }
    }
}
