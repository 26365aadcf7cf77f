//! The command line. One file per command; human tables by default, `--json` everywhere.
//!
//! Exit codes: 0 done; 1 refused or not found; 2 wrong usage; 3 a policy or settings file has
//! problems; 4 the store cannot answer.

mod apps;
mod audit;
mod check;
pub mod demo;
mod demo_clients;
mod explain;
mod grants;
mod init;
mod keys;
mod keys_for_demo;
mod limits;
mod listing;
mod logging;
mod orgs;
mod print;
mod signing_keys;
mod token;
mod upstream;
mod usage;
mod users;

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};
use policy::credential::Secret;

use crate::base::clock::{Clock as _, System};
use crate::config::{Config, ConfigError};
use crate::registry::keys::KeyChanges;
use crate::registry::{Actor, By, ChangeError, Registry};
use crate::server::{Start, StartError};
use crate::store::{KeyRecord, Store, StoreError};

/// Tollgate: a reverse-proxy authentication gateway.
///
/// Stands in front of an API that knows nothing about keys, scopes or limits, and gives it
/// everything that its public documentation promises about authentication.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, max_term_width = 100)]
pub struct Cli {
    /// Settings file.
    #[arg(long, global = true, env = "TOLLGATE_CONFIG", default_value = "tollgate.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start everything on loopback with sample upstreams, keys and curl lines to paste.
    Demo(demo::Demo),
    /// Make a settings file, a pepper and a certificate to try with.
    Init(init::Init),
    /// Run the gateway.
    Serve {
        /// Take the listeners over from the running gateway; then stop that one with SIGQUIT.
        #[arg(long)]
        upgrade: bool,
    },
    /// Check everything a gateway would start with, or some policy files, and print every problem.
    Check(check::Check),
    /// Print the whole decision for a request, step by step, without spending anything.
    Explain(explain::Explain),
    /// API keys.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Organizations.
    #[command(subcommand)]
    Orgs(orgs::Orgs),
    /// OAuth applications.
    #[command(subcommand)]
    Apps(apps::Apps),
    /// Users: people who grant applications access.
    #[command(subcommand)]
    Users(users::Users),
    /// Grants: what users have let applications do.
    #[command(subcommand)]
    Grants(grants::Grants),
    /// Keys that sign access tokens.
    #[command(subcommand)]
    SigningKeys(signing_keys::SigningKeys),
    /// Tokens.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// What is on record: requests, and whether any record is missing.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// How much is used: by key, organization, route, outcome, hour or day.
    Usage(usage::Usage),
    /// Limits of keys: what is left of them.
    #[command(subcommand)]
    Limits(limits::Limits),
    /// Gateways that share the store, and how far they have followed its changes.
    Gateways,
    /// Print the JSON Schema of policy files, or of the settings file.
    Schema {
        /// Which one.
        #[arg(value_enum, default_value = "policy")]
        of: SchemaOf,
    },
    /// Write manual pages, one for each command.
    Man {
        /// Folder for them.
        folder: PathBuf,
    },
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SchemaOf {
    Policy,
    Settings,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something in the arguments or the state does not fit.
    #[error("{0}")]
    Refused(String),
    /// A policy has problems.
    #[error("{0}")]
    Problems(Box<policy::Problems>),
    /// What the settings name has problems.
    #[error("{0}")]
    Unfit(String),
    /// The settings file has problems.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The gateway did not start.
    #[error("{0}")]
    Start(#[from] StartError),
    /// Output or a thread.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

impl Failure {
    /// As a person sees it: problems of files with their excerpts, in colour on a terminal.
    fn shown(&self) -> String {
        let is_coloured = print::has_colour(&std::io::stderr());
        match self {
            Failure::Problems(problems) => problems.shown(is_coloured),
            Failure::Config(ConfigError::Wrong(problems)) => problems.shown(is_coloured),
            Failure::Refused(_)
            | Failure::Unfit(_)
            | Failure::Config(_)
            | Failure::Store(_)
            | Failure::Start(_)
            | Failure::System(_) => format!("error: {self}"),
        }
    }

    fn code(&self) -> u8 {
        match self {
            Failure::Refused(_) | Failure::System(_) => 1,
            Failure::Problems(_) | Failure::Unfit(_) | Failure::Config(_) => 3,
            Failure::Start(StartError::Policy(_)) => 3,
            Failure::Store(StoreError::Unavailable(_) | StoreError::Corrupt(_))
            | Failure::Start(StartError::Store(_)) => 4,
            Failure::Store(StoreError::NotFound(_) | StoreError::Exists(_) | StoreError::Refused(_)) => 1,
            Failure::Start(
                StartError::Certificates(_)
                | StartError::Metrics(_)
                | StartError::Randomness(_)
                | StartError::Passwords(_)
                | StartError::System { .. },
            ) => 1,
        }
    }
}

impl From<crate::registry::signing_keys::SigningKeysError> for Failure {
    fn from(error: crate::registry::signing_keys::SigningKeysError) -> Self {
        match error {
            crate::registry::signing_keys::SigningKeysError::Store(error) => Failure::Store(error),
            crate::registry::signing_keys::SigningKeysError::Ring(fault) => Failure::Refused(fault.to_string()),
        }
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Store(error) => Failure::Store(error),
            ChangeError::Refused(..) | ChangeError::Randomness(_) => Failure::Refused(error.to_string()),
        }
    }
}

impl From<crate::base::random::NoRandomness> for Failure {
    fn from(error: crate::base::random::NoRandomness) -> Self {
        Failure::Refused(error.to_string())
    }
}

/// Longest key that is read from standard input.
const KEY_BYTES_MAX: u64 = 4_096;

/// Longest wait of a command for a Redis; a person waits longer than a request.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a command that talks to the store needs.
struct Context {
    config: Config,
    store: Arc<dyn Store>,
    json: bool,
}

impl Context {
    async fn open(path: &std::path::Path, json: bool) -> Result<Self, Failure> {
        let mut config = Config::read(path)?;
        config.redis.timeout = STORE_TIMEOUT;
        config.redis.connect_timeout = STORE_TIMEOUT;
        let store = crate::store::open(&config.store, &config.redis).await?;
        Ok(Context { config, store, json })
    }

    fn policy(&self) -> Result<policy::Policy, Failure> {
        let sources = crate::snapshot::read(&self.config.policy).map_err(|e| Failure::Refused(e.to_string()))?;
        policy::compile(sources).map_err(|p| Failure::Problems(Box::new(p)))
    }

    /// Changes of keys, by whoever runs the command.
    fn keys(&self) -> KeyChanges<'_> {
        let by = By { actor: Context::actor(), now_ms: System.now_ms() };
        KeyChanges { store: &*self.store, peppers: &self.config.peppers, by }
    }

    /// Whoever runs the command, by the clock that sessions and grants go by.
    async fn by(&self) -> Result<By, Failure> {
        Ok(By { actor: Context::actor(), now_ms: self.store.now_ms(System.now_ms()).await? })
    }

    /// The record of the key that stands on standard input, if the store has it.
    async fn key_on_stdin(&self) -> Result<Option<KeyRecord>, Failure> {
        let mut text = zeroize::Zeroizing::new(String::new());
        std::io::stdin().take(KEY_BYTES_MAX).read_to_string(&mut text)?;
        let (current, previous) = self.config.peppers.digests(Secret::new(text.trim()));
        for digest in [Some(current), previous].into_iter().flatten() {
            if let Some(key) = self.store.find_key(&digest).await? {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    fn registry(&self) -> Registry {
        Registry::new(self.store.clone())
    }

    /// Who acts, for records: `cli:jo(1000)@host`. The name is what the shell says, the number what the
    /// system says.
    #[expect(clippy::disallowed_methods, reason = "the user's name is an input of the command line")]
    fn actor() -> Actor {
        use std::os::unix::fs::MetadataExt as _;
        let plain = |text: &str| -> String {
            text.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(32).collect()
        };
        let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
        let uid = std::fs::metadata("/proc/self").map_or_else(|_| "?".to_owned(), |process| process.uid().to_string());
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Actor::cli(&format!("{}({uid})@{}", plain(&user), plain(&host)))
    }
}

/// Parses the arguments and runs the command.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has enough (`| head`) is not a failure.
        Err(Failure::System(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{}", failure.shown());
            ExitCode::from(failure.code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let Cli { config, json, command } = cli;
    match command {
        Command::Demo(demo) => demo.run(),
        Command::Init(init) => init.run(json),
        Command::Serve { upgrade } => {
            let _logging = logging::start()?;
            Ok(crate::server::run(Config::read(&config)?, Start { upgrade })?)
        }
        Command::Check(check) => check.run(&config, json),
        Command::Schema { of } => print::json(&match of {
            SchemaOf::Policy => policy::file::schema(),
            SchemaOf::Settings => crate::config::schema(),
        }),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tollgate", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { folder } => {
            std::fs::create_dir_all(&folder)?;
            clap_mangen::generate_to(Cli::command(), &folder)?;
            let folder = folder.display();
            print::line(&format!("the pages are in {folder}; read one with `man -l {folder}/tollgate.1`"))
        }
        Command::Audit(audit) => audit.run(&config, json),
        Command::Usage(usage) => usage.run(&config, json),
        Command::Explain(explain) => with_store(&config, json, async |context| explain.run(&context).await),
        Command::Keys(keys) => with_store(&config, json, async |context| keys.run(&context).await),
        Command::Orgs(orgs) => with_store(&config, json, async |context| orgs.run(&context).await),
        Command::Apps(apps) => with_store(&config, json, async |context| apps.run(&context).await),
        Command::Users(users) => with_store(&config, json, async |context| users.run(&context).await),
        Command::Grants(grants) => with_store(&config, json, async |context| grants.run(&context).await),
        Command::SigningKeys(keys) => with_store(&config, json, async |context| keys.run(&context).await),
        Command::Token(token) => with_store(&config, json, async |context| token.run(&context).await),
        Command::Limits(limits) => with_store(&config, json, async |context| limits.run(&context).await),
        Command::Gateways => with_store(&config, json, async |context| gateways(&context).await),
    }
}

fn with_store<W>(config: &std::path::Path, json: bool, work: W) -> Result<(), Failure>
where
    W: AsyncFnOnce(Context) -> Result<(), Failure>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { work(Context::open(config, json).await?).await })
}

async fn gateways(context: &Context) -> Result<(), Failure> {
    use crate::base::clock::rfc3339;
    let list = context.store.gateways(System.now_ms()).await?;
    if context.json {
        return print::json(&list);
    }
    let rows = list.into_iter().map(|g| vec![g.id, g.position, rfc3339(g.seen_ms)]);
    print::table(&["GATEWAY", "FOLLOWED TO", "SEEN"], rows)
}
