use super::*;

fn document() -> DocumentId {
    DocumentId::new("boards/42").unwrap()
}

fn version(name: &str, time_ms: u64) -> Version {
    Version {
        document: document().to_string(),
        name: name.to_owned(),
        epoch: 1,
        position: 7,
        heads: vec!["00".repeat(32)],
        time_ms,
        bytes: 0,
        checksum: String::new(),
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, VersionError>) -> &'static str {
    result.unwrap_err().code()
}

#[test]
fn versions_are_made_listed_read_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let versions = Versions::new(folder.path());
    assert_eq!(versions.list(&document()).unwrap(), []);
    let second = versions.create(&document(), version("second / ü", 2), b"two").unwrap();
    let first = versions.create(&document(), version("first", 1), b"one").unwrap();
    assert_eq!((second.bytes, versions.list(&document()).unwrap()), (3, vec![first.clone(), second.clone()]));
    // Somebody else's eyes, and another document of the same version's name.
    let again = Versions::new(folder.path());
    assert_eq!(again.find(&document(), "second / ü").unwrap(), second);
    assert_eq!(again.read(&document(), &second).unwrap(), b"two");
    let other = DocumentId::new("boards/43").unwrap();
    assert_eq!(code(again.find(&other, "first")), "version_unknown");
    assert_eq!(code(again.create(&document(), version("first", 3), b"x")), "version_taken");
    again.delete(&document(), "first").unwrap();
    assert_eq!(code(again.delete(&document(), "first")), "version_unknown");
    assert_eq!(again.list(&document()).unwrap(), [second]);
    again.create(&document(), version("first", 3), b"anew").unwrap();
    again.delete_all(&document()).unwrap();
    again.delete_all(&document()).unwrap();
    assert_eq!(again.list(&document()).unwrap(), []);
}

#[test]
fn names_and_their_number_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let versions = Versions::new(folder.path());
    for (name, is_one) in [
        ("x".repeat(VERSION_NAME_BYTES_MAX - 1), true),
        ("x".repeat(VERSION_NAME_BYTES_MAX), true),
        ("x".repeat(VERSION_NAME_BYTES_MAX + 1), false),
        (String::new(), false),
        ("a\nb".to_owned(), false),
        ("../../up".to_owned(), true),
    ] {
        let made = versions.create(&document(), version(&name, 0), b"x");
        assert_eq!(made.is_ok(), is_one, "{name:?}");
        if !is_one {
            assert_eq!(code(made), "version_name_invalid");
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is beside the versions' directory");
    for number in 3..VERSIONS_PER_DOCUMENT_MAX {
        versions.create(&document(), version(&number.to_string(), 0), b"x").unwrap();
    }
    assert_eq!(versions.list(&document()).unwrap().len(), VERSIONS_PER_DOCUMENT_MAX);
    assert_eq!(code(versions.create(&document(), version("one more", 0), b"x")), "version_too_many");
    versions.delete(&document(), "3").unwrap();
    versions.create(&document(), version("one more", 0), b"x").unwrap();
}

#[test]
fn damage_is_named_and_what_a_crash_left_is_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let versions = Versions::new(folder.path());
    let made = versions.create(&document(), version("v", 0), b"some bytes").unwrap();
    let description = versions.description(&document(), "v");
    let file = description.with_extension("automerge");
    for at in 0..10 {
        let mut bytes = b"some bytes".to_vec();
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert_eq!(code(versions.read(&document(), &made)), "version_damaged");
    }
    let json = fs::read(&description).unwrap();
    fs::write(&description, &json[..json.len() / 2]).unwrap();
    assert_eq!(code(versions.find(&document(), "v")), "version_damaged");
    let misplaced = versions.description(&document(), "w");
    fs::write(&misplaced, &json).unwrap();
    assert_eq!(code(versions.find(&document(), "w")), "version_damaged");
    fs::remove_file(misplaced).unwrap();
    // A crash before the description: the version is not there, and can be made.
    fs::remove_file(&description).unwrap();
    assert_eq!(code(versions.find(&document(), "v")), "version_unknown");
    let made = versions.create(&document(), version("v", 0), b"others").unwrap();
    assert_eq!(versions.read(&document(), &made).unwrap(), b"others");
}
