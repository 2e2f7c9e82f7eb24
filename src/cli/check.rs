//! `fanfare check`: everything that is wrong with the configuration, or what it amounts to.

use super::failure::Failure;
use super::output;
use crate::config::{Config, Sources, Store, load};

pub(super) fn check(sources: &Sources) -> Result<(), Failure> {
    let config = load(sources).map_err(|problems| Failure::of_problems(&problems))?;
    output::line(&summary(&config))
}

fn summary(config: &Config) -> String {
    let set_up =
        if config.is_trial { "trial: secrets are generated and kept in data_dir" } else { "configured" };
    let broker = match config.broker.urls.len() {
        0 => "embedded".to_owned(),
        count => format!("RabbitMQ ({count} URLs)"),
    };
    let presence = config.presence.url.as_ref().map_or("embedded", |_| "Redis");
    let inbox = match &config.inbox.store {
        Store::Sqlite(path) => format!("SQLite {}", path.display()),
        Store::Postgres(_) => "PostgreSQL".to_owned(),
    };
    let auth = &config.auth;
    let lines = [
        "the configuration is valid".to_owned(),
        format!("  set-up    {set_up}"),
        format!("  node      {}", config.node.id),
        format!("  http      {}", config.http.listen),
        format!("  admin     {}", config.admin.listen),
        format!("  broker    {broker}"),
        format!("  presence  {presence}"),
        format!("  inbox     {inbox}"),
        format!(
            "  auth      {} token keys{}, {} publishers, {} administrators",
            auth.users.keys.len(),
            auth.key_set.as_ref().map_or("", |_| " and those of jwks_url"),
            auth.publishers.len(),
            auth.admins.len()
        ),
    ];
    let warnings = config.warnings().into_iter().map(|warning| format!("  warning   {warning}"));
    lines.into_iter().chain(warnings).collect::<Vec<_>>().join("\n")
}
