//! Which servers a store URL names: one, a cluster, or the master that Sentinel names.

use std::path::PathBuf;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisError, RedisResult, TlsCertificates, Value};
use tokio::sync::Mutex;

use super::super::StoreError;

/// Time between two looks at where the name of a server leads.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How to reach Redis, beside the URL.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Certificate authority of a server that speaks TLS; the system's when absent.
    pub ca: Option<PathBuf>,
}

impl Default for RedisSettings {
    fn default() -> Self {
        RedisSettings { timeout: Duration::from_millis(250), connect_timeout: Duration::from_millis(500), ca: None }
    }
}

/// A way to Redis.
pub(crate) enum Topology {
    /// One server.
    Alone(Client),
    /// A cluster: through the library's client, or node by node.
    Cluster(Box<ClusterClient>, Seeds),
    /// The master that Sentinel names.
    Sentinel(Box<Mutex<SentinelClient>>),
}

impl Topology {
    /// Connects to the one server at the end of this way. A cluster has no such server.
    pub(crate) async fn connect(&self, config: &AsyncConnectionConfig) -> RedisResult<MultiplexedConnection> {
        match self {
            Topology::Alone(client) => client.get_multiplexed_async_connection_with_config(config).await,
            Topology::Sentinel(client) => client.lock().await.get_async_connection_with_config(config).await,
            Topology::Cluster(..) => Err((redis::ErrorKind::InvalidClientConfig, "a cluster is not one server").into()),
        }
    }
}

/// Known nodes of a cluster, and how to reach any of them.
#[derive(Clone)]
pub(crate) struct Seeds {
    /// `host:port` of each.
    pub(crate) hosts: Vec<String>,
    scheme: String,
    login: String,
    certificates: Option<TlsCertificates>,
}

impl Seeds {
    /// A client of one node.
    pub(crate) fn client(&self, host: &str) -> RedisResult<Client> {
        let info = node(&self.scheme, &self.login, host, "").into_connection_info()?;
        match self.certificates.clone() {
            Some(tls) => Client::build_with_tls(info, tls),
            None => Client::open(info),
        }
    }
}

/// A connection whose time is measured by whoever uses it, not by the library.
pub(crate) fn untimed() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None)
}

/// One server's URL in the words of the library.
fn node(scheme: &str, login: &str, host: &str, path: &str) -> String {
    let protocol = if path.contains('?') { "&protocol=resp3" } else { "?protocol=resp3" };
    format!("{scheme}://{login}{host}/{path}{protocol}")
}

fn bad_url(error: impl std::fmt::Display) -> StoreError {
    StoreError::Refused(format!(
        "the store URL cannot be used: {error}; write sqlite:///path, redis://host:6379, rediss://…, \
         redis+cluster://host:port,host:port or redis+sentinel://host:port,host:port/master-name"
    ))
}

/// The error without what the server echoed of our command: it could hold record data.
pub(crate) fn describe(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("Redis says {code}"),
        None => error.category().to_owned(),
    }
}

/// What a server says of itself and of its role: the sections `server` and `replication` of `INFO`, in
/// one go.
pub(crate) async fn info(connection: &mut MultiplexedConnection) -> RedisResult<String> {
    let (server, replication): (String, String) =
        redis::pipe().cmd("INFO").arg("server").cmd("INFO").arg("replication").query_async(connection).await?;
    Ok(server + &replication)
}

/// A field of what `INFO` says.
pub(crate) fn info_field<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Slots of a cluster that one master holds.
pub(crate) struct SlotRange {
    /// The first one.
    pub(crate) first: u16,
    /// The last one.
    pub(crate) last: u16,
    /// Where the master is, as it stands in a URL; none when the node that was asked does not know.
    pub(crate) address: Option<String>,
    /// The master's id.
    pub(crate) id: Option<String>,
}

/// Reads `CLUSTER SLOTS`. What cannot be read is left out; a table with holes is read again soon.
pub(crate) fn slot_ranges(value: &Value) -> Vec<SlotRange> {
    let Value::Array(ranges) = value else { return Vec::new() };
    let text = |value: &Value| {
        let Value::BulkString(text) = value else { return None };
        String::from_utf8(text.clone()).ok()
    };
    let read = |range: &Value| {
        let Value::Array(parts) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &parts[..] else { return None };
        let host = master.first().and_then(text).filter(|host| !host.is_empty());
        let address = host.zip(master.get(1)).and_then(|(host, port)| {
            let Value::Int(port) = port else { return None };
            Some(bracketed(&format!("{host}:{port}")))
        });
        let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
        Some(SlotRange { first, last, address, id: master.get(2).and_then(text) })
    };
    ranges.iter().filter_map(read).collect()
}

/// An address as it stands in a URL: an IPv6 host in brackets. Redis writes it without.
pub(crate) fn bracketed(address: &str) -> String {
    match address.rsplit_once(':') {
        Some((host, port)) if host.contains(':') && !host.starts_with('[') => format!("[{host}]:{port}"),
        Some(_) | None => address.to_owned(),
    }
}

/// The code of an error. Redis before 7 wraps what a command inside a script met into an error of
/// the script; then it is the code inside.
pub(crate) fn code(error: &RedisError) -> Option<&str> {
    let outer = error.code()?;
    let is_code = |word: &str| word.len() > 2 && word.bytes().all(|b| b.is_ascii_uppercase());
    let inner = || {
        let (_, met) = error.detail()?.split_once("script")?;
        met.split_whitespace().map(|word| word.trim_start_matches('-')).find(|word| is_code(word))
    };
    if outer == "ERR" { inner().or(Some(outer)) } else { Some(outer) }
}

/// Reads a store URL.
pub(crate) fn topology(url: &str, settings: &RedisSettings) -> Result<Topology, StoreError> {
    let ca = settings.ca.as_ref().map(std::fs::read).transpose();
    let ca = ca.map_err(|e| bad_url(format!("cannot read the certificate authority: {e}")))?;
    let certificates = || ca.clone().map(|root_cert| TlsCertificates { client_tls: None, root_cert: Some(root_cert) });
    let (scheme, rest) = url.split_once("://").ok_or_else(|| bad_url("there is no `://`"))?;
    let (plain, arrangement) = scheme.split_once('+').unwrap_or((scheme, ""));
    if plain != "redis" && plain != "rediss" {
        return Err(bad_url(format!("`{plain}` is not a kind of store")));
    }
    let (login, rest) = rest.rsplit_once('@').map_or(("", rest), |(login, rest)| (login, rest));
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let login = if login.is_empty() { String::new() } else { format!("{login}@") };
    match arrangement {
        "" => {
            let info = node(plain, &login, hosts, path).into_connection_info().map_err(|e| bad_url(describe(&e)))?;
            let client = match certificates() {
                Some(tls) => Client::build_with_tls(info, tls),
                None => Client::open(info),
            };
            client.map(Topology::Alone).map_err(|e| bad_url(describe(&e)))
        }
        "cluster" => {
            let hosts: Vec<String> = hosts.split(',').map(str::to_owned).collect();
            let nodes: Vec<String> = hosts.iter().map(|host| node(plain, &login, host, "")).collect();
            let seeds = Seeds { hosts, scheme: plain.to_owned(), login: login.clone(), certificates: certificates() };
            let mut builder = ClusterClientBuilder::new(nodes)
                .connection_timeout(settings.connect_timeout)
                .max_connection_attempts(std::num::NonZeroUsize::MIN)
                .response_timeout(settings.timeout)
                .retries(2);
            if let Some(tls) = certificates() {
                builder = builder.certs(tls);
            }
            builder.build().map(|client| Topology::Cluster(Box::new(client), seeds)).map_err(|e| bad_url(describe(&e)))
        }
        "sentinel" => sentinel(hosts, path, plain == "rediss", &login, certificates())
            .map(|client| Topology::Sentinel(Box::new(Mutex::new(client)))),
        other => Err(bad_url(format!("`{other}` is not an arrangement of Redis"))),
    }
}

/// Undoes percent-encoding, as the library does in the URL of one server; a plus is a plus.
fn percent_decoded(text: &str) -> String {
    let as_form = format!("={}", text.replace('+', "%2B").replace('&', "%26"));
    form_urlencoded::parse(as_form.as_bytes()).map(|(_, value)| value.into_owned()).collect()
}

/// What may stand behind the master's name: how the sentinels themselves are spoken to, and which
/// database is used.
#[derive(Debug, Default, PartialEq, Eq)]
struct SentinelOptions {
    user: Option<String>,
    password: Option<String>,
    tls: Option<bool>,
    db: Option<i64>,
}

impl SentinelOptions {
    fn parse(query: &str) -> Result<Self, StoreError> {
        let mut options = SentinelOptions::default();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = percent_decoded(value);
            let not = |what: &str| bad_url(format!("`{name}` must be {what}"));
            match name {
                "sentinel_user" => options.user = Some(value),
                "sentinel_password" => options.password = Some(value),
                "sentinel_tls" => {
                    options.tls = Some(match value.as_str() {
                        "yes" => true,
                        "no" => false,
                        _ => return Err(not("`yes` or `no`")),
                    });
                }
                "db" => options.db = Some(value.parse().map_err(|_| not("a number"))?),
                // What stands there may be the end of a password with an `&` in it: it is not shown.
                _ => {
                    return Err(bad_url(
                        "what follows the master's name after `?` or `&` is no option; there are sentinel_user, \
                         sentinel_password, sentinel_tls and db",
                    ));
                }
            }
        }
        Ok(options)
    }
}

fn sentinel(
    hosts: &str,
    path: &str,
    tls: bool,
    login: &str,
    certificates: Option<TlsCertificates>,
) -> Result<SentinelClient, StoreError> {
    let (master, query) = path.split_once('?').unwrap_or((path, ""));
    let options = SentinelOptions::parse(query)?;
    // What the master is spoken to by is how its sentinels are, unless they have their own way.
    let sentinel_tls = options.tls.unwrap_or(tls);
    let mut addresses = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = host.rsplit_once(':').unwrap_or((host, "26379"));
        let (host, port) = (name.to_owned(), port.parse());
        let port = port.map_err(|_| bad_url(format!("`{name}` has no usable port")))?;
        addresses.push(match sentinel_tls {
            true => redis::ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            false => redis::ConnectionAddr::Tcp(host, port),
        });
    }
    let master = percent_decoded(master.strip_suffix('/').unwrap_or(master));
    if master.is_empty() || master.contains('/') {
        return Err(bad_url("a Sentinel URL ends in the master's name"));
    }
    let mut builder = SentinelClientBuilder::new(addresses, &master, SentinelServerType::Master)
        .map_err(|e| bad_url(describe(&e)))?
        .set_client_to_redis_protocol(redis::ProtocolVersion::RESP3);
    let (user, password) = login.trim_end_matches('@').split_once(':').unwrap_or((login.trim_end_matches('@'), ""));
    if !password.is_empty() {
        builder = builder.set_client_to_redis_password(percent_decoded(password));
    }
    if !user.is_empty() {
        builder = builder.set_client_to_redis_username(percent_decoded(user));
    }
    if let Some(user) = options.user {
        builder = builder.set_client_to_sentinel_username(user);
    }
    if let Some(password) = options.password {
        builder = builder.set_client_to_sentinel_password(password);
    }
    if let Some(db) = options.db {
        builder = builder.set_client_to_redis_db(db);
    }
    if tls {
        builder = builder.set_client_to_redis_tls_mode(redis::TlsMode::Secure);
    }
    if sentinel_tls {
        builder = builder.set_client_to_sentinel_tls_mode(redis::TlsMode::Secure);
    }
    if let Some(certificates) = certificates {
        if sentinel_tls {
            builder = builder.set_client_to_sentinel_certificates(certificates.clone());
        }
        builder = builder.set_client_to_redis_certificates(certificates);
    }
    builder.build().map_err(|e| bad_url(describe(&e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_node_is_written_as_a_url_wants_it() {
        assert_eq!(bracketed("2001:db8::1:7000"), "[2001:db8::1]:7000");
        assert_eq!(bracketed("[2001:db8::1]:7000"), "[2001:db8::1]:7000");
        assert_eq!(bracketed("10.0.0.1:7000"), "10.0.0.1:7000");
        let text = |s: &str| Value::BulkString(s.as_bytes().to_vec());
        let node = Value::Array(vec![text("2001:db8::1"), Value::Int(7000)]);
        let slots = Value::Array(vec![Value::Array(vec![Value::Int(0), Value::Int(16_383), node])]);
        let ranges: Vec<_> = slot_ranges(&slots).into_iter().map(|r| (r.first, r.last, r.address, r.id)).collect();
        assert_eq!(ranges, [(0, 16_383, Some("[2001:db8::1]:7000".to_owned()), None)]);
    }

    #[test]
    fn role_and_id_are_found_in_the_text_of_info() {
        let info = "# Server\r\nredis_version:7.0\r\nrun_id:abc\r\n# Replication\r\nrole:slave\r\n";
        assert_eq!((info_field(info, "role"), info_field(info, "run_id")), (Some("slave"), Some("abc")));
        assert_eq!((info_field("", "role"), info_field("", "run_id")), (None, None));
    }

    #[test]
    fn secrets_of_a_sentinel_url_are_percent_encoded_as_everywhere() {
        assert_eq!(percent_decoded("p%40ss%3aw+rd%25&x"), "p@ss:w+rd%&x");
        let options = SentinelOptions::parse("sentinel_user=s&sentinel_password=p%26q&sentinel_tls=no&db=2").unwrap();
        let expected = SentinelOptions {
            user: Some("s".to_owned()),
            password: Some("p&q".to_owned()),
            tls: Some(false),
            db: Some(2),
        };
        assert_eq!(options, expected);
        for bad in ["sentinel_tls=maybe", "db=x", "colour=red"] {
            assert!(SentinelOptions::parse(bad).is_err(), "{bad}");
        }
    }
}
