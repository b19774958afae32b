//! Where messages of the machine's life go: standard error, as lines or as JSON.

mod first_use;
mod limit;

use clap::{Args, ValueEnum};
use tracing::Dispatch;
use tracing_subscriber::filter::LevelFilter;

use first_use::MadeAtFirstUse;
use limit::LimitedStderr;

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Messages")]
pub(super) struct LogArgs {
    /// Least severity of the messages on standard error
    #[arg(long, value_name = "LEVEL", value_enum, default_value = "warn", global = true)]
    log_level: Level,

    /// Form of the messages on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text", global = true)]
    log_format: Format,
}

#[derive(Debug, Default, Clone, Copy, ValueEnum)]
enum Level {
    Error,
    #[default]
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Default, Clone, Copy, ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

impl LogArgs {
    /// Directs the messages of this process. A second call has no effect.
    pub(super) fn install(&self) {
        let level = match self.log_level {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        };
        let format = self.log_format;
        let lines = MadeAtFirstUse::new(level, move || lines(format, level));
        let _: Result<_, _> = tracing::dispatcher::set_global_default(Dispatch::new(lines));
    }
}

/// Writes messages of `level` and above to standard error.
fn lines(format: Format, level: LevelFilter) -> Dispatch {
    let mention: fn(u64) -> String = match format {
        Format::Text => |count| format!(" WARN {count} messages were dropped\n"),
        Format::Json => |count| {
            let fields = serde_json::json!({ "message": "messages were dropped", "count": count });
            format!("{}\n", serde_json::json!({ "level": "WARN", "fields": fields }))
        },
    };
    let stderr = LimitedStderr::new(mention);
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(move || stderr.clone())
        // It would report a reader that is gone by `eprintln!`, which panics then: a guest
        // that breaks its device would abort the machine.
        .log_internal_errors(false)
        .with_ansi(false);
    match format {
        Format::Text => lines.with_target(false).finish().into(),
        Format::Json => lines.json().finish().into(),
    }
}
