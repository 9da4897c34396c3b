use super::*;

const LIFETIME_S: u64 = 1_000;

fn open(data: &Path, now_s: u64) -> Result<Revocations, RevocationsError> {
    Revocations::open(data, LIFETIME_S, now_s)
}

fn hits(revocations: &Revocations, token: &str, subject: &str, document: &str) -> bool {
    let identity = Identity { subject: subject.into(), token: token.into(), issued_s: 50 };
    revocations.hits(&identity, &DocumentId::new(document).unwrap())
}

fn three(data: &Path) -> Revocations {
    let revocations = open(data, 100).unwrap();
    for what in [Line::Token("t1".into()), Line::Subject("ada".into()), Line::Documents("rooms/*".into())] {
        revocations.add(&what.at(100).unwrap()).unwrap();
    }
    revocations
}

#[test]
fn revocations_outlive_a_restart_and_go_when_their_tokens_have_ended() {
    let data = tempfile::tempdir().unwrap();
    drop(three(data.path()));
    // Twice: each start writes the file anew.
    for now_s in [101, 100 + LIFETIME_S] {
        let revocations = open(data.path(), now_s).unwrap();
        assert_eq!(revocations.len(), 3);
        assert!(hits(&revocations, "t1", "eve", "notes"));
        assert!(hits(&revocations, "t2", "ada", "notes"));
        assert!(hits(&revocations, "t2", "eve", "rooms/1"));
        assert!(!hits(&revocations, "t2", "eve", "notes"));
    }
    let revocations = open(data.path(), 101 + LIFETIME_S).unwrap();
    assert!(revocations.is_empty() && !hits(&revocations, "t1", "ada", "rooms/1"));
}

#[test]
fn every_flipped_bit_is_noticed_or_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    drop(three(data.path()));
    let path = data.path().join(FILE);
    let whole = fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        match read_all(&bad) {
            Err(line) => assert!((1..=3).contains(&line)),
            Ok(all) => assert_eq!(all, read_all(&whole).unwrap(), "bit {bit}"),
        }
    }
    let mut bad = whole.clone();
    bad[0] ^= 1;
    fs::write(&path, bad).unwrap();
    let error = open(data.path(), 101).unwrap_err().to_string();
    assert!(error.contains("line 1") && error.contains("damaged"), "{error}");
}

#[test]
fn a_file_cut_anywhere_keeps_its_whole_lines() {
    let data = tempfile::tempdir().unwrap();
    drop(three(data.path()));
    let whole = fs::read(data.path().join(FILE)).unwrap();
    for len in 0..whole.len() {
        let lines = whole[..len].iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(read_all(&whole[..len]).unwrap().len(), lines, "{len} bytes");
    }
}

#[test]
fn as_many_are_kept_as_may_be() {
    let data = tempfile::tempdir().unwrap();
    let revocations = open(data.path(), 100).unwrap();
    let document = |n: usize| Line::Documents(format!("rooms/{n}")).at(100).unwrap();
    for n in 1..=DOCUMENT_REVOCATIONS_MAX {
        revocations.table.write().unwrap().add(document(n));
    }
    assert!(matches!(revocations.add(&document(0)), Err(RevocationsError::Full)));
    let token = |n: usize| Line::Token(n.to_string()).at(100).unwrap();
    for n in DOCUMENT_REVOCATIONS_MAX..REVOCATIONS_MAX - 1 {
        revocations.table.write().unwrap().add(token(n));
    }
    revocations.add(&token(0)).unwrap();
    assert!(matches!(revocations.add(&token(1)), Err(RevocationsError::Full)));
    assert_eq!(revocations.len(), REVOCATIONS_MAX);
}

#[test]
fn what_is_no_revocation_is_refused() {
    for what in [
        Line::Token(String::new()),
        Line::Token("x".repeat(TOKEN_ID_BYTES_MAX + 1)),
        Line::Subject(String::new()),
        Line::Subject("x".repeat(SUBJECT_BYTES_MAX + 1)),
        Line::Documents("room*".into()),
    ] {
        assert!(what.at(1).is_err(), "{what:?}");
    }
    for what in [Line::Token("x".repeat(TOKEN_ID_BYTES_MAX)), Line::Subject("x".repeat(SUBJECT_BYTES_MAX))] {
        assert!(what.at(1).is_ok());
    }
}
