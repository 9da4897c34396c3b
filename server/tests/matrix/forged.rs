//! Forged and malformed tokens at a running server: to whoever brings them they all look alike.

use std::time::{SystemTime, UNIX_EPOCH};

use etherply_wire::limits::TOKEN_BYTES_MAX;
use etherply_wire::{ErrorCode, Kind, Rights};

use crate::common::{Server, command};
use crate::line::{Answer, Line, code};

#[path = "../../../access/tests/shapes/mod.rs"]
mod shapes;

/// A little ahead, and within the leeway for clocks: so what is not good yet does not become so meanwhile.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + etherply_access::CLOCK_LEEWAY_S / 2
}

#[test]
fn forged_and_malformed_tokens_are_refused_alike() {
    let folder = tempfile::tempdir().unwrap();
    let (data, keys) = (folder.path().join("data"), folder.path().join("keys"));
    std::fs::create_dir(&keys).unwrap();
    let known = shapes::Server::new();
    for (name, pair) in [("ed", &known.ed), ("es", &known.es), ("rs", &known.rs)] {
        std::fs::write(keys.join(format!("{name}.pem")), &pair.public).unwrap();
    }
    let secret = keys.join("hs.secret");
    std::fs::write(&secret, &known.hs.private).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let server = Server::spawn(command(&data).arg("--keys").arg(&keys));
    let open = |token: &str| {
        let mut line = Line::new(server.listen);
        let (_, answer) = line.open("rooms/1", Rights::READ.0, Some(token), None);
        (answer, line.finish())
    };
    let good = known.ed.sign(shapes::ED, &shapes::good().to_string());
    assert!(matches!(open(&good).0, Answer::Opened { .. }));
    let shapes = shapes::shapes(&known);
    let mut first = None;
    for (name, token, _) in &shapes {
        let (answer, heard) = open(token);
        if token.len() > TOKEN_BYTES_MAX {
            // Its frame may be more than is read of somebody whom nobody knows.
            assert!(matches!(answer, Answer::Error { .. }), "{name}: {answer:?}");
            continue;
        }
        let expected = Answer::Error { code: code(ErrorCode::TokenInvalid), kind: Kind::Open as u16 };
        assert_eq!(answer, expected, "{name}");
        assert_eq!(&heard, first.get_or_insert_with(|| heard.clone()), "{name}");
    }
    let refused = shapes.iter().filter(|(_, token, _)| token.len() <= TOKEN_BYTES_MAX).count();
    assert!(refused >= 40, "{refused}");
    println!("{refused} tokens, each answered with the same bytes");
}
