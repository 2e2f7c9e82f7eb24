//! The configuration as an operator meets it: what wins, what is refused, what is shown.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fanfare::auth::{Admins, Grant, Publishers, SigningKey, UserTokens};
use fanfare::config::{Config, LogFormat, Problem, Sources, Store, Trial, load};
use fanfare::domain::UnixMillis;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// Loads `toml` (if any) with these variables.
fn load_with(toml: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("fanfare.toml");
    std::fs::write(&file, toml).expect("written");
    let variable = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
    load(&Sources {
        file: (!toml.is_empty()).then_some(file),
        environment: variables.iter().map(variable).collect(),
    })
}

fn problems(toml: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let problems = load_with(toml, variables).expect_err("problems");
    let shown = problems.iter().map(|problem| {
        let message = &problem.message;
        format!("{}: {message}", problem.key)
    });
    shown.collect()
}

#[test]
fn without_configuration_it_is_an_embedded_trial() {
    let config = load_with("", &[("PATH", "/bin"), ("FANFARE_TEST_X", "1")]).expect("defaults");
    assert!(config.is_trial && config.is_embedded() && config.http.demo);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9191");
    assert_eq!(config.inbox.store, Store::Sqlite(PathBuf::from("./data/fanfare.sqlite")));
    assert!(config.inbox.migrate_at_start);
    assert_eq!(config.publish.max_ttl, Duration::from_secs(30 * 24 * 3600));
    assert_eq!(config.auth.users.leeway, Duration::from_secs(5));
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
    let toml = "[http]\nlisten = \"127.0.0.1:1\"\nmax_connections = 7\n[log]\nformat = \"json\"";
    let variables = [
        ("FANFARE__HTTP__LISTEN", "127.0.0.1:2"),
        ("FANFARE__NODE__ID", "n7"),
        ("FANFARE__HTTP__ALLOWED_ORIGINS", "https://A.example, http://localhost:3000"),
        ("FANFARE__PUBLISH__MAX_USERS", "12"),
    ];
    let config = load_with(toml, &variables).expect("valid");
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:2");
    assert_eq!(config.http.max_connections, 7);
    assert_eq!(config.http.allowed_origins, ["https://a.example", "http://localhost:3000"]);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.node.id.as_str(), "n7");
    assert_eq!(config.publish.max_users, 12);
}

#[test]
fn everything_that_is_wrong_is_listed_at_once_with_its_limit() {
    let toml = r#"
        colour = "red"
        [http]
        listen = "localhost"
        max_connections = 0
        max_connections_per_address = -1
        trusted_proxies = ["127.0.0.1", "10.0.0.1/8"]
        lisen = "127.0.0.1:1"
        [gateway]
        heartbeat_ms = 40000
        window_bytes = 8192
        [drain]
        window_ms = 15001
        spread_ms = 30000
        [broker]
        heartbeat_ms = 1500
        default_publisher = "nobody"
        [inbox]
        url = "mysql://x"
        migrate_at_start = true
        [log]
        level = "loud"
        [drains]
        [auth.users]
    "#;
    let listed = problems(toml, &[("FANFARE__PRESENCE__POOL", "4"), ("FANFARE__HTTP__DEMO", "1")]);
    let expected = [
        "colour: there is no such key; config/default.toml lists all",
        "drains: there is no such key; config/default.toml lists all",
        "http.lisen: there is no such key; did you mean http.listen?",
        "presence.pool: there is no such key; config/default.toml lists all",
        "http.listen: must be ADDRESS:PORT, such as 127.0.0.1:8080; got \"localhost\"",
        "http.max_connections: must be a whole number, 1-1000000; got 0",
        "http.max_connections_per_address: must be a whole number, 0-1000000; got -1",
        "http.trusted_proxies: must be a list of addresses or networks, such as 10.0.0.0/8; \
         got [127.0.0.1, 10.0.0.1/8]",
        "http.demo: must be \"auto\" or \"on\" or \"off\"; got \"1\"",
        "broker.heartbeat_ms: must be whole seconds in milliseconds, 1000-600000; got 1500",
        "inbox.url: must be sqlite://PATH or postgres://user:password@host:port/database",
        "inbox.migrate_at_start: must be \"auto\" or \"on\" or \"off\"; got true",
        "log.level: must be error, warn, info, debug, trace, or directives such as \
         info,fanfare::broker=debug; got \"loud\"",
        "presence.ttl_ms: must be at least 3 heartbeats (3 x gateway.heartbeat_ms = 120000); \
         got 90000",
        "drain.window_ms: must be at most half of drain.deadline_ms (30000); got 15001",
        "drain.spread_ms: must be less than drain.deadline_ms (30000); got 30000",
        "gateway.window_bytes: must be at least publish.max_notification_bytes (65536); got 8192",
        "broker.default_publisher: must be the id of one of auth.publishers; got \"nobody\"",
    ];
    assert_eq!(listed, expected);
}

#[test]
fn a_problem_says_where_the_value_was_set() {
    let found = load_with("", &[("FANFARE__HTTP__MAX_CONNECTIONS", "many")]).expect_err("no number");
    assert_eq!(
        found[0].to_string(),
        "http.max_connections (in FANFARE__HTTP__MAX_CONNECTIONS): must be a whole number, \
         1-1000000; got \"many\""
    );
    let missing = Sources { file: Some(PathBuf::from("/nonexistent/fanfare.toml")), environment: vec![] };
    let found = load(&missing).expect_err("no file");
    assert!(found[0].to_string().starts_with("/nonexistent/fanfare.toml: cannot be read: "));
}

#[test]
fn a_real_backend_without_secrets_is_refused() {
    for (name, value) in [
        ("FANFARE__BROKER__URLS", "amqp://localhost"),
        ("FANFARE__PRESENCE__URL", "redis://localhost"),
        ("FANFARE__INBOX__URL", "postgres://localhost/fanfare"),
    ] {
        let listed = problems("", &[(name, value)]);
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert!(listed[0].starts_with("auth.users.keys: must hold a key"), "{listed:?}");
        let config = load_with("", &[(name, value), ("FANFARE__AUTH__USERS__SECRET", SECRET)]);
        let config = config.expect("valid");
        assert!(!config.is_trial && !config.http.demo && !config.is_embedded());
    }
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let redis = write("redis", "redis://:hunter2@localhost:6379/1\n");
    let publishers = write(
        "publishers",
        &format!("[[auth.publishers]]\nid = \"shop\"\nkey_hashes = [\"{HASH}\"]\ntopics = [\"a.#\"]"),
    );
    let secret = write("secret", &format!("{SECRET}\n"));
    let keys = format!("[{{ id = \"k1\", algorithm = \"HS256\", secret_file = {secret:?} }}]");
    let variables = [
        ("FANFARE__PRESENCE__URL_FILE", redis.as_str()),
        ("FANFARE__AUTH__PUBLISHERS_FILE", publishers.as_str()),
        ("FANFARE__AUTH__USERS__KEYS", keys.as_str()),
        ("FANFARE__BROKER__URLS", "amqp://u:hunter2@a,amqps://u:hunter2@b"),
    ];
    let config = load_with("", &variables).expect("valid");
    let url = config.presence.url.clone().expect("a URL");
    assert_eq!(url.expose(), "redis://:hunter2@localhost:6379/1");
    assert_eq!(config.auth.users.keys[0].key.expose(), SECRET);
    assert_eq!(config.auth.publishers[0].id.as_str(), "shop");
    assert_eq!(config.broker.urls[1].expose(), "amqps://u:hunter2@b");
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2") && !shown.contains(SECRET), "{shown}");

    let wrong = write("wrong", "hunter2");
    let listed = load_with(
        "[auth.users]\nsecret = \"hunter2\"\n[[auth.admin]]\nid = \"x\"\ntoken_hash = \"hunter2\"",
        &[
            ("FANFARE__PRESENCE__URL_FILE", &wrong),
            ("FANFARE__INBOX__URL", "hunter2"),
            ("FANFARE__BROKER__URLS", "hunter2"),
            ("FANFARE__AUTH__USERS__KEYS", "[{ algorithm = \"HS256\", secret = \"hunter2\" }]"),
            ("FANFARE__AUTH__PUBLISHERS", "hunter2"),
        ],
    );
    let shown = format!("{:?}", listed.expect_err("seven problems"));
    for key in [
        "presence.url",
        "inbox.url",
        "broker.urls",
        "auth.users.keys[0]",
        "auth.users.secret",
        "auth.publishers",
        "auth.admin[0].token_hash",
    ] {
        assert!(shown.contains(&format!("{key:?}")), "{key} in {shown}");
    }
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn broken_toml_is_refused_with_its_place_and_without_quoting_it() {
    let listed = problems("[auth.users]\nsecret = hunter2-hunter2\n", &[]);
    assert_eq!(listed.len(), 1);
    assert!(listed[0].contains("line 2"), "{listed:?}");
    assert!(!listed[0].contains("hunter2"), "{listed:?}");
}

#[test]
fn a_secret_set_twice_in_the_environment_is_a_contradiction() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("url");
    std::fs::write(&file, "redis://a").expect("written");
    let variables = [
        ("FANFARE__PRESENCE__URL", "redis://b"),
        ("FANFARE__PRESENCE__URL_FILE", file.to_str().expect("UTF-8")),
        ("FANFARE__HTTP__LISTEN_FILE", "/x"),
        ("FANFARE__INBOX__URL_FILE", "/nonexistent"),
    ];
    let listed = problems("", &variables).join("\n");
    assert!(listed.contains("presence.url: is set by FANFARE__PRESENCE__URL too"), "{listed}");
    assert!(listed.contains("http.listen_file: there is no such key"), "{listed}");
    assert!(listed.contains("inbox.url: the file \"/nonexistent\" cannot be read"), "{listed}");
}

#[test]
fn what_is_wrong_in_lists_is_named_with_its_place() {
    let toml = format!(
        r#"
        [auth.users]
        keys = [
            {{ algorithm = "none", secret = "x" }},
            {{ algorithm = "RS256", secret = "x" }},
            {{ algorithm = "HS256", secret = "{SECRET}", secret_file = "x" }},
            {{ algorithm = "HS256", secret = "-----BEGIN PUBLIC KEY-----" }},
            {{ algorithm = "HS256", secret = "{SECRET}", colour = "red" }},
        ]
        [[auth.publishers]]
        id = "a b"
        [[auth.publishers]]
        id = "shop"
        users = "all"
        everyone = "yes"
        key_hashes = ["short"]
        [[auth.publishers]]
        id = "shop"
        topics = ["a*"]
        [[auth.admin]]
        id = "ops"
        "#
    );
    let listed = problems(&toml, &[]);
    let keys: Vec<&str> =
        listed.iter().map(|problem| problem.split(": ").next().unwrap_or_default()).collect();
    let expected = [
        "auth.users.keys[0].algorithm",
        "auth.users.keys[1]",
        "auth.users.keys[1].secret",
        "auth.users.keys[2]",
        "auth.users.keys[4].colour",
        "auth.users.keys[3]",
        "auth.publishers[0].id",
        "auth.publishers[1].key_hashes",
        "auth.publishers[1].users",
        "auth.publishers[1].everyone",
        "auth.publishers[2].topics",
        "auth.publishers[2].id",
        "auth.admin[0].token_hash",
    ];
    assert_eq!(keys, expected, "{listed:#?}");
}

#[test]
fn events_need_rabbitmq_and_each_is_a_switch_of_its_own() {
    let all = "[events]\nreceipts = true\npresence = true\nundelivered_after_s = 60";
    let needs = "needs RabbitMQ to tell it by: set broker.urls, or leave it off";
    let expected =
        ["receipts", "presence", "undelivered_after_s"].map(|key| format!("events.{key}: {needs}"));
    assert_eq!(problems(all, &[]), expected);

    let rabbit = [("FANFARE__BROKER__URLS", "amqp://localhost"), ("FANFARE__AUTH__USERS__SECRET", SECRET)];
    let config = load_with(all, &rabbit).expect("valid");
    assert!(config.events.receipts && config.events.presence && config.events.any());
    assert_eq!(config.events.undelivered_after, Some(Duration::from_secs(60)));
    let config = load_with("[events]\nundelivered_after_s = 5", &rabbit).expect("valid");
    assert!(!config.events.receipts && !config.events.presence && config.events.any());
    let config = load_with("", &rabbit).expect("valid");
    assert!(!config.events.any() && config.events.undelivered_after.is_none());

    let by_word = [("FANFARE__EVENTS__RECEIPTS", "true"), rabbit[0], rabbit[1]];
    assert!(load_with("", &by_word).expect("valid").events.receipts);
    let listed = problems("", &[("FANFARE__EVENTS__PRESENCE", "yes")]);
    assert_eq!(listed, ["events.presence: must be true or false; got \"yes\""]);
}

#[test]
fn what_may_live_for_so_long_is_kept_for_so_long() {
    let config = load_with("", &[]).expect("defaults");
    let day = Duration::from_secs(24 * 3600);
    assert_eq!((config.retention.age, config.retention.max_entries), (30 * day, 10_000));
    assert_eq!((config.retention.receipts, config.retention.idle_device), (day, 90 * day));
    assert_eq!(config.retention.revocation, 30 * day);
    assert_eq!(config.publish.max_schedule, 90 * day);
    let listed = problems("[retention]\ndays = 7", &[]);
    assert_eq!(listed, ["retention.days: must be at least publish.max_ttl_days (30); got 7"]);
    let url = "[broker]\nurls = [\"amqp://127.0.0.1\"]\n[publish]\nmax_ttl_days = 1\n[retention]\ndays = 1\n";
    let listed = problems(&format!("{url}[events]\nundelivered_after_s = 86400"), &[]);
    let said = "events.undelivered_after_s: must be less than retention.days (1 = 86400 s), as nobody can look at what \
                is gone; got 86400";
    assert!(listed.iter().any(|problem| problem == said), "{listed:?}");
    let shorter = load_with("[retention]\ndays = 7\n[publish]\nmax_ttl_days = 7", &[]).expect("valid");
    assert_eq!(shorter.retention.age, 7 * day);
}

#[test]
fn a_file_beside_real_backends_is_allowed_with_a_warning() {
    let secret = ("FANFARE__AUTH__USERS__SECRET", SECRET);
    for backend in
        [("FANFARE__BROKER__URLS", "amqp://localhost"), ("FANFARE__PRESENCE__URL", "redis://localhost")]
    {
        let config = load_with("", &[backend, secret]).expect("valid");
        let warnings = config.warnings();
        assert!(matches!(&warnings[..], [one] if one.starts_with("inbox.url")), "{warnings:?}");
        let postgres = ("FANFARE__INBOX__URL", "postgres://localhost/fanfare");
        assert!(load_with("", &[backend, secret, postgres]).expect("valid").warnings().is_empty());
    }
    assert!(load_with("", &[]).expect("defaults").warnings().is_empty());
}

fn mode(path: &Path) -> u32 {
    let metadata = std::fs::metadata(path).expect("it is there");
    metadata.permissions().mode() & 0o777
}

#[test]
fn trial_secrets_are_made_once_kept_private_and_open_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("data");
    assert_eq!(Trial::load(&data_dir).expect("readable"), None);
    let mut trial = Trial::load_or_create(&data_dir).expect("made");
    assert_eq!(mode(&data_dir), 0o700);
    assert_eq!(mode(&data_dir.join("trial.json")), 0o600);
    trial.keep_url(&data_dir, "http://127.0.0.1:8080").expect("kept");
    assert_eq!(mode(&data_dir.join("trial.json")), 0o600);
    assert_eq!(Trial::load_or_create(&data_dir).expect("kept"), trial);
    assert_eq!(std::fs::read_dir(&data_dir).expect("readable").count(), 1);

    let (now, auth) = (UnixMillis(1_000_000), trial.auth(Duration::ZERO));
    let tokens = std::sync::Arc::new(UserTokens::new(auth.users).expect("a usable key"));
    let grant = Grant { sub: "alice".to_owned(), ..Grant::default() };
    let signing = SigningKey::new(&trial.user_key()).expect("a usable key");
    let token = signing.sign(&grant, Duration::from_secs(9), now).expect("signs");
    assert!(tokens.verify(&token, now).is_ok());
    let publishers = Publishers::new(auth.publishers, None, tokens);
    assert!(publishers.authenticate(trial.publisher_key.expose(), now).is_ok());
    assert!(Admins::new(auth.admins).authenticate(trial.admin_token.expose()).is_some());
    let shown = format!("{trial:?}");
    assert!(!shown.contains(trial.admin_token.expose()), "{shown}");
}

#[test]
fn processes_that_start_at_once_agree_on_the_trials_secrets() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().expect("a folder");
        let together = std::sync::Barrier::new(4);
        let start = || {
            together.wait();
            Trial::load_or_create(folder.path()).expect("made")
        };
        let trials = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            let trials = threads.into_iter().map(|thread| thread.join());
            trials.collect::<Result<Vec<_>, _>>().expect("no panic")
        });
        assert!(trials.iter().all(|trial| *trial == trials[0]));
        let files = std::fs::read_dir(folder.path()).expect("readable");
        assert_eq!(files.count(), 1);
    }
}

#[test]
fn the_inboxs_file_is_relative_to_data_dir_and_its_url_is_escaped() {
    let variables = [("FANFARE__DATA_DIR", "/srv/100%"), ("FANFARE__INBOX__URL", "sqlite://in/box.sqlite")];
    let store = load_with("", &variables).expect("valid").inbox.store;
    assert_eq!(store, Store::Sqlite(PathBuf::from("/srv/100%/in/box.sqlite")));
    assert_eq!(store.url().expose(), "sqlite:///srv/100%25/in/box.sqlite");
    for bad in ["sqlite://", "sqlite::memory:", "sqlite://a?mode=memory", "sqlite://:memory:"] {
        let listed = problems("", &[("FANFARE__INBOX__URL", bad)]);
        assert!(listed[0].starts_with("inbox.url: must be sqlite://PATH"), "{listed:?}");
    }
}

#[test]
fn damaged_trial_secrets_are_not_replaced_silently() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("trial.json"), "{").expect("written");
    let error = Trial::load_or_create(folder.path()).expect_err("damaged");
    assert!(error.to_string().ends_with("is damaged; delete it to have new secrets made"));
}

#[test]
fn keys_may_come_from_a_url_by_https_or_of_this_machine_and_are_keys_enough() {
    let load = |text: &str| {
        load_with(&format!("[auth.users]\n{text}\n[broker]\nurls = [\"amqp://localhost\"]"), &[])
    };
    let config = load("jwks_url = \"https://id.example/jwks.json\"").expect("valid");
    assert!(!config.is_trial && config.auth.users.keys.is_empty());
    let set = config.auth.key_set.expect("a key set");
    assert_eq!((set.refresh, set.timeout), (Duration::from_secs(300), Duration::from_secs(5)));
    assert_eq!((set.cooldown, set.keep), (Duration::from_secs(30), Duration::from_secs(24 * 3600)));
    assert!(load_with("", &[]).expect("defaults").auth.key_set.is_none());
    assert!(!load_with("[auth.users]\njwks_url = \"http://[::1]:80/k\"", &[]).expect("valid").is_trial);

    for url in ["http://id.example/jwks", "https://alice:hunter2@id.example/", "hunter2"] {
        let listed = problems(&format!("[auth.users]\njwks_url = {url:?}"), &[]);
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert!(listed[0].starts_with("auth.users.jwks_url: must be https://…"), "{listed:?}");
        assert!(!listed[0].contains("hunter2"), "{listed:?}");
    }
    let bounds = "[auth.users]\njwks_refresh_s = 29\njwks_timeout_ms = 10001\njwks_cooldown_s = 0\njwks_keep_hours = 1";
    let listed = problems(bounds, &[]);
    assert_eq!(listed.len(), 4, "{listed:?}");
    assert!(listed[0].contains("30-3600; got 29"), "{listed:?}");
}
