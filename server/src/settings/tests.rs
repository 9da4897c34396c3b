use super::*;

fn asked(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Asked, Refused> {
    let arguments: Vec<OsString> = ["etherply"].iter().chain(arguments).map(OsString::from).collect();
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    ask(&arguments, &environment)
}

fn faults(arguments: &[&str], environment: &[(&str, &str)]) -> Vec<(&'static str, String)> {
    match asked(arguments, environment) {
        Err(Refused::Faults { faults, .. }) => {
            faults.iter().map(|fault| (fault.code(), fault.to_string())).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("etherply.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

fn serves(asked: Asked) -> (ServeArgs, Vec<Setting>) {
    match asked.command {
        Command::Serve(args) => (args, asked.settings),
        other => panic!("{other:?}"),
    }
}

fn source<'s>(settings: &'s [Setting], key: &str) -> &'s Source {
    &settings.iter().find(|setting| setting.key == key).unwrap().source
}

#[test]
fn a_flag_wins_over_a_variable_and_that_over_the_file() {
    let (_folder, path) = file("idle-timeout = 1_0\nscrub-days = 0x10\ncores = 1\ninsecure = true\n");
    let variables =
        [("ETHERPLY_CONFIG", path.as_str()), ("ETHERPLY_IDLE_TIMEOUT", "20"), ("ETHERPLY_CORES", "2")];
    for command in [vec!["--cores", "3"], vec!["serve", "--cores", "3"]] {
        let (args, settings) = serves(asked(&command, &variables).unwrap());
        assert_eq!((args.cores, args.idle_timeout, args.scrub_days), (Some(3), 20, 16));
        assert!(args.insecure && !args.ready_json);
        for (key, from) in [
            ("cores", Source::Flag),
            ("idle-timeout", Source::Environment),
            ("scrub-days", Source::File(2)),
            ("insecure", Source::File(4)),
            ("retain-days", Source::Default),
        ] {
            assert_eq!(*source(&settings, key), from, "{key}");
        }
    }
    let (args, _) = serves(asked(&["--config", &path], &[("ETHERPLY_INSECURE", "false")]).unwrap());
    assert!(!args.insecure);
}

#[test]
fn lists_and_texts_are_taken_from_everywhere() {
    let (_folder, path) =
        file("allow-origin = [\"https://a.test\", \"*\"]\nlog = \"debug\"\nrealtime = 'off'\n");
    let (args, settings) = serves(asked(&["--config", &path], &[]).unwrap());
    assert_eq!((args.allow_origin.len(), args.log.as_str()), (2, "debug"));
    assert_eq!(*source(&settings, "realtime"), Source::File(3));
    let (args, _) =
        serves(asked(&["--config", &path], &[("ETHERPLY_ALLOW_ORIGIN", "https://b.test")]).unwrap());
    assert_eq!(args.allow_origin.len(), 1);
}

#[test]
fn everything_that_is_wrong_is_named_with_its_place_and_what_was_meant() {
    let (_folder, path) = file("# limits\nidle_timeout = 5\nidle-timeout = 0\n\n[tls]\ncert = 1\n[quota]\n");
    let told = faults(&["--config", &path], &[("ETHERPLY_IDLE_TIMEOT", "1"), ("ETHERPLY_CORES", "x")]);
    let expected = [
        (
            "setting_unknown",
            format!("{path}:2: there is no setting idle_timeout; did you mean idle-timeout?"),
        ),
        ("setting_invalid", format!("{path}:3: idle-timeout = 0: it is a whole number from 1 to 3600")),
        ("setting_unknown", format!("{path}:5: there is no setting tls; did you mean tls-key?")),
        ("setting_unknown", format!("{path}:7: there is no setting quota: `etherply config` shows all")),
        (
            "setting_unknown",
            "environment: there is no setting ETHERPLY_IDLE_TIMEOT; did you mean ETHERPLY_IDLE_TIMEOUT?"
                .to_owned(),
        ),
        (
            "setting_invalid",
            "environment: ETHERPLY_CORES = x: it is a whole number from 1 to 1024".to_owned(),
        ),
    ];
    assert_eq!(told, expected);
}

#[test]
fn values_have_the_type_of_their_setting() {
    for (line, reason) in [
        ("idle-timeout = \"5\"", "it is a whole number, without quotes"),
        ("idle-timeout = 5.0", "it is a whole number, without quotes"),
        ("idle-timeout = -5", "it is a whole number from 1 to 3600"),
        ("insecure = \"true\"", "it is true or false, without quotes"),
        ("insecure = 1", "it is true or false, without quotes"),
        ("listen = 4180", "it is a text in quotes"),
        ("listen = \"here\"", "invalid socket address syntax"),
        ("allow-host = \"a.test\"", "it is a list of texts in quotes, in square brackets"),
        ("allow-host = [1]", "it is a list of texts in quotes, in square brackets"),
        ("realtime = \"maybe\"", "it is one of off, auto, all"),
    ] {
        let (_folder, path) = file(line);
        let told = faults(&["--config", &path], &[]);
        assert_eq!(told.len(), 1, "{line}");
        assert_eq!(told[0].0, "setting_invalid");
        assert!(told[0].1.ends_with(&format!(": {reason}")), "{}", told[0].1);
    }
}

#[test]
fn a_file_is_read_whole_or_not_at_all() {
    let (folder, path) = file("idle-timeout = 5\nidle-timeout = 6\n");
    assert_eq!(faults(&["--config", &path], &[])[0].0, "config_malformed");
    assert!(faults(&["--config", &path], &[])[0].1.starts_with(&format!("{path}:2: ")));
    for text in ["config = \"other\"", "listen", "= 1"] {
        let (_folder, path) = file(text);
        let told = faults(&["--config", &path], &[]);
        assert!(["config_malformed", "setting_unknown"].contains(&told[0].0), "{told:?}");
    }
    let nothing = folder.path().join("nothing");
    assert_eq!(faults(&["--config", nothing.to_str().unwrap()], &[])[0].0, "config_io");
    assert_eq!(faults(&[], &[("ETHERPLY_CONFIG", "")])[0].0, "config_io");
}

#[test]
fn the_length_of_a_file_is_bounded() {
    let max = usize::try_from(file::CONFIG_BYTES_MAX).unwrap();
    for (bytes, is_fine) in [(max - 1, true), (max, true), (max + 1, false)] {
        let (_folder, path) = file(&format!("#{}\n", "x".repeat(bytes - 2)));
        assert_eq!(asked(&["--config", &path], &[]).is_ok(), is_fine, "{bytes}");
    }
}

#[test]
fn commands_that_take_no_settings_are_not_kept_by_them() {
    let wrong = [("ETHERPLY_IDLE_TIMEOUT", "no"), ("ETHERPLY_CONFIG", "/nothing"), ("ETHERPLY_WHAT", "1")];
    assert!(asked(&["export", "--out", "out"], &wrong).is_ok());
    assert!(asked(&["token", "inspect", "x"], &wrong).is_ok());
    assert!(matches!(asked(&["--help"], &wrong), Err(Refused::Usage(_))));
    assert_eq!(faults(&["config"], &wrong).len(), 3);
    // What stands in front of a command would not be looked at.
    assert!(matches!(asked(&["--cores", "1", "serve"], &[]), Err(Refused::Usage(_))));
}

#[test]
fn no_text_makes_a_file_of_settings_panic() {
    let whole =
        "idle-timeout = 5\nallow-host = [\"a\", \"b\"]\ninsecure = true\nlog = '''x'''\n[a.b]\nc = {d = 1}\n";
    for at in 0..whole.len() {
        for replaced in ["", "\"", "[", "]", "=", "\n", "\u{0}", "'''", "ä", "9999999999999999999999"] {
            let text = format!("{}{replaced}{}", &whole[..at], &whole[at + 1..]);
            for text in [&text, &whole[..at]] {
                file::parse(Path::new("f"), text, &mut Vec::new());
            }
        }
    }
}
