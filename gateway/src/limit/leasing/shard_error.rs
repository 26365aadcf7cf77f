//! Why a server gives no answer about a bucket, and whose fault that is.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::store::topology::code;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardError {
    /// The server is away, or just stopped answering.
    Away,
    /// This bucket is another server's.
    Moved(String),
    /// This bucket is on its way to another server.
    Ask(String),
    /// This bucket cannot be used; the server is well.
    Broken,
}

/// Whether an error is about one bucket alone. Redis before 7 wraps what a command inside a script
/// says of the server into an error of the script.
pub fn is_about_the_bucket(error: &RedisError) -> bool {
    let is_of_the_script = matches!(
        error.kind(),
        ErrorKind::UnexpectedReturnType | ErrorKind::Parse | ErrorKind::Server(ServerErrorKind::ResponseError)
    );
    let of_the_server = ["READONLY", "OOM", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "LOADING"];
    let is_of_the_server = code(error).is_some_and(|code| of_the_server.contains(&code));
    error.code() == Some("WRONGTYPE") || (is_of_the_script && !is_of_the_server)
}
