use automerge::AutoCommit;
use automerge::transaction::Transactable as _;

use super::*;

/// A document with so many objects within one another, itself included.
fn nested(levels: usize) -> Automerge {
    let mut doc = AutoCommit::new();
    let mut object = ROOT;
    for level in 1..levels {
        object = match level % 2 {
            0 => doc.insert_object(&object, 0, ObjType::Map).unwrap(),
            _ => doc.put_object(&object, "in", ObjType::List).unwrap(),
        };
    }
    doc.put(ROOT, "beside", 1).unwrap();
    doc.document().clone()
}

/// A document whose text has a block with so many objects within one another.
fn block(levels: usize) -> Automerge {
    let mut doc = AutoCommit::new();
    let text = doc.put_object(ROOT, "text", ObjType::Text).unwrap();
    let mut object = doc.split_block(&text, 0).unwrap();
    for _ in 1..levels {
        object = doc.put_object(&object, "in", ObjType::Map).unwrap();
    }
    doc.document().clone()
}

fn is_within_now(automerge: &Automerge, depth: Depth) -> bool {
    is_within(automerge, &automerge.get_heads(), depth).unwrap()
}

#[test]
fn a_document_may_be_nested_as_deep_as_the_limit() {
    for (levels, is_in) in [(DEPTH_MAX - 1, true), (DEPTH_MAX, true), (DEPTH_MAX + 1, false)] {
        assert_eq!(is_within_now(&nested(levels), Depth::Document), is_in, "{levels}");
        assert!(is_within_now(&nested(levels), Depth::Blocks));
    }
}

#[test]
fn so_may_a_block_of_a_text_below_its_text() {
    for (levels, is_in) in [(DEPTH_MAX - 2, true), (DEPTH_MAX - 1, true), (DEPTH_MAX, false)] {
        assert_eq!(is_within_now(&block(levels), Depth::Blocks), is_in, "{levels}");
    }
    assert!(!is_within_now(&block(DEPTH_MAX), Depth::Document));
}

#[test]
fn what_was_deleted_counts_where_it_was_there() {
    let mut doc = AutoCommit::load(&nested(DEPTH_MAX + 1).save()).unwrap();
    let before = doc.get_heads();
    doc.delete(ROOT, "in").unwrap();
    doc.commit();
    let doc = doc.document();
    assert!(!is_within(doc, &before, Depth::Document).unwrap());
    assert!(is_within_now(doc, Depth::Document));
}

#[test]
fn the_deep_stack_holds_what_is_nested_to_the_limit_and_a_panic() {
    let deepest = nested(DEPTH_MAX);
    let value = contained(|| crate::history::json::value(&deepest.hydrate(None))).unwrap();
    assert!(value.to_string().len() > DEPTH_MAX);
    assert_eq!(contained(|| panic!("as told")).map(|()| 0), Err("it panicked: as told".to_owned()));
}
