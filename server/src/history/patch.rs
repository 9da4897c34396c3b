//! Carries out on a document what leads from one state to another, as new operations.

use automerge::marks::{ExpandMark, Mark};
use automerge::transaction::Transactable;
use automerge::{AutomergeError, ObjId, Patch, PatchAction, Prop, ROOT, Value};

/// Carries out patches in their order. Objects are found by their paths: those that a patch makes are new ones.
///
/// # Errors
/// What Automerge says, if the document is not in the state from which the patches lead.
pub fn apply(document: &mut impl Transactable, patches: Vec<Patch>) -> Result<(), AutomergeError> {
    for Patch { path, action, .. } in patches {
        let mut object = ROOT;
        for (_, prop) in path {
            object = match document.get(&object, prop)? {
                Some((_, object)) => object,
                None => return Err(AutomergeError::NotAnObject),
            };
        }
        carry_out(document, &object, action)?;
    }
    Ok(())
}

fn carry_out(
    document: &mut impl Transactable,
    object: &ObjId,
    action: PatchAction,
) -> Result<(), AutomergeError> {
    match action {
        PatchAction::PutMap { key, value, .. } => put(document, object, Prop::Map(key), value.0),
        PatchAction::PutSeq { index, value, .. } => put(document, object, Prop::Seq(index), value.0),
        PatchAction::Insert { index, values } => {
            for (at, (value, _, _)) in (index..).zip(values.iter()) {
                match value {
                    Value::Object(kind) => drop(document.insert_object(object, at, *kind)?),
                    Value::Scalar(value) => document.insert(object, at, value.clone().into_owned())?,
                }
            }
            Ok(())
        }
        PatchAction::SpliceText { index, value, marks } => {
            let text = value.make_string();
            let before = document.length(object);
            document.splice_text(object, index, 0, &text)?;
            let end = index + document.length(object).saturating_sub(before);
            for (name, value) in marks.iter().flat_map(|marks| marks.iter()) {
                let mark = Mark::new(name.to_owned(), value.clone(), index, end);
                document.mark(object, mark, ExpandMark::None)?;
            }
            Ok(())
        }
        PatchAction::Increment { prop, value } => document.increment(object, prop, value),
        PatchAction::DeleteMap { key } => document.delete(object, key),
        PatchAction::DeleteSeq { index, length } => {
            (0..length).try_for_each(|_| document.delete(object, index))
        }
        PatchAction::Mark { marks } => {
            marks.into_iter().try_for_each(|mark| document.mark(object, mark, ExpandMark::None))
        }
        // What is in conflict stays so until somebody writes there.
        PatchAction::Conflict { .. } => Ok(()),
    }
}

fn put(
    document: &mut impl Transactable,
    object: &ObjId,
    prop: Prop,
    value: Value<'_>,
) -> Result<(), AutomergeError> {
    match value {
        Value::Object(kind) => document.put_object(object, prop, kind).map(drop),
        Value::Scalar(value) => document.put(object, prop, value.into_owned()),
    }
}
