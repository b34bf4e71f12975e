//! One feature a test.

use super::*;

#[test]
fn a_fresh_store_is_at_revision_one_and_empty() {
    let store = Store::new();
    assert_eq!((store.revision(), store.compact_revision()), (1, 0));
    assert_eq!(store.view().range(&range("\0", "\0")).unwrap().count, 0);
    assert_eq!(accept(&store, &put("a", "1")), 2);
    assert_eq!(shown(&store.view().range(&range("a", "")).unwrap().kvs), "a=1@2");
}
