//! `fanfare check`: everything that is wrong with the configuration, or what it amounts to and where each value is from.

use serde_json::json;

use super::failure::Failure;
use super::output;
use crate::config::{Config, Setting, Sources, Store, load, settings};

/// Longer values do not move the column of where they come from.
const WIDEST: usize = 40;

pub(super) fn check(sources: &Sources, json: bool) -> Result<(), Failure> {
    let config = load(sources).map_err(|problems| Failure::of_problems(&problems))?;
    let settings = settings(sources);
    if json {
        let checked = json!({
            "node": config.node.id,
            "trial": config.is_trial,
            "warnings": config.warnings(),
            "settings": settings,
        });
        return output::line(&checked.to_string());
    }
    output::line(&format!("{}\n\n{}", summary(&config), table(&settings, output::has_colours())))
}

/// What somebody has set stands out from the defaults.
fn table(settings: &[Setting], coloured: bool) -> String {
    let width = |text: fn(&Setting) -> &str| {
        let widths = settings.iter().map(|setting| text(setting).chars().count());
        widths.filter(|width| *width <= WIDEST).max().unwrap_or_default()
    };
    let (keys, values) = (width(|setting| &setting.key), width(|setting| &setting.value));
    let row = |setting: &Setting| {
        let Setting { key, value, origin } = setting;
        let row = format!("  {key:keys$}  {:values$}", output::harmless(value));
        match origin {
            Some(origin) => format!("{row}  {}", output::bold(&output::harmless(origin), coloured)),
            None => output::dim(row.trim_end(), coloured),
        }
    };
    let rows: Vec<String> = settings.iter().map(row).collect();
    format!("settings, and where they come from if not from config/default.toml\n{}", rows.join("\n"))
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
