//! Requests that we make to issuers: for keys, about tokens, for a login.
//!
//! Only to addresses that an operator has written down. No redirect is followed, no proxy of the
//! environment is used, every answer has a size and every request a deadline, and only so many are
//! under way at once: whoever sends us tokens cannot make us flood an issuer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Semaphore;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Longest time for a request, connecting included.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Requests under way at once.
const AT_ONCE: usize = 32;
/// Longest answer, in bytes.
pub const ANSWER_BYTES_MAX: u64 = 256 * 1024;
/// Longest field of an answer's head, in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Why there is no usable answer. Says nothing of what was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpClientError {
    /// Nobody answered in time, or the answer cannot be read.
    #[error("{0}")]
    Unreachable(String),
    /// The answer has another status than 200.
    #[error("the answer has status {0}")]
    Status(u16),
}

/// A form that is sent, with our credentials for the one who is asked.
#[derive(Clone, Debug)]
pub struct Form {
    /// Client id and secret, for HTTP Basic.
    pub login: Option<(String, zeroize::Zeroizing<String>)>,
    /// The fields.
    pub fields: Vec<(&'static str, zeroize::Zeroizing<String>)>,
}

/// A client that trusts the certificate authorities of a file, or the system's.
pub(crate) fn agent(ca: Option<&Path>) -> std::io::Result<ureq::Agent> {
    let certificates: Vec<Certificate<'static>> = match ca {
        Some(path) => {
            let pem = std::fs::read(path)?;
            let read = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
                Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
                Ok(_) | Err(_) => None,
            });
            read.collect()
        }
        None => {
            let native = rustls_native_certs::load_native_certs().certs;
            native.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
        }
    };
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(certificates)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(TIMEOUT))
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .proxy(None)
        .max_response_header_size(HEAD_BYTES_MAX)
        .user_agent("tollgate")
        .build();
    Ok(config.new_agent())
}

/// Makes requests.
pub struct HttpClient {
    agent: ureq::Agent,
    at_once: Arc<Semaphore>,
    folder: PathBuf,
}

impl HttpClient {
    /// Trusts the certificate authorities of a file, or the system's. Names of secret files are
    /// relative to a folder.
    pub fn new(ca: Option<&PathBuf>, folder: PathBuf) -> std::io::Result<Self> {
        let agent = agent(ca.map(PathBuf::as_path))?;
        Ok(HttpClient { agent, at_once: Arc::new(Semaphore::new(AT_ONCE)), folder })
    }

    async fn run(
        &self,
        work: impl FnOnce(&ureq::Agent) -> Result<http::Response<ureq::Body>, ureq::Error> + Send + 'static,
    ) -> Result<Vec<u8>, HttpClientError> {
        let unreachable = |why: String| HttpClientError::Unreachable(why);
        let waiting = tokio::time::timeout(TIMEOUT, self.at_once.clone().acquire_owned()).await;
        let permit = waiting.ok().and_then(Result::ok).ok_or_else(|| unreachable("too many are under way".into()))?;
        let agent = self.agent.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let answer = work(&agent).map_err(|error| HttpClientError::Unreachable(error.to_string()))?;
            if answer.status() != http::StatusCode::OK {
                return Err(HttpClientError::Status(answer.status().as_u16()));
            }
            let mut body = answer.into_body();
            let read = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
            read.map_err(|error| HttpClientError::Unreachable(error.to_string()))
        });
        done.await.map_err(|error| unreachable(error.to_string()))?
    }

    /// Reads JSON.
    pub async fn get(&self, url: &str) -> Result<Vec<u8>, HttpClientError> {
        let url = url.to_owned();
        self.run(move |agent| agent.get(&url).header("accept", "application/json").call()).await
    }

    /// Sends a form and reads JSON.
    pub async fn post(&self, url: &str, form: Form) -> Result<Vec<u8>, HttpClientError> {
        let url = url.to_owned();
        self.run(move |agent| {
            let mut body = form_urlencoded::Serializer::new(String::new());
            for (name, value) in &form.fields {
                body.append_pair(name, value);
            }
            let body = zeroize::Zeroizing::new(body.finish());
            let mut request = agent
                .post(&url)
                .header("accept", "application/json")
                .header("content-type", "application/x-www-form-urlencoded");
            if let Some((id, secret)) = &form.login {
                // RFC 6749 section 2.3.1: both are form-encoded first.
                let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let pair = zeroize::Zeroizing::new(format!("{}:{}", encode(id), encode(secret)));
                request = request.header("authorization", format!("Basic {}", STANDARD.encode(&*pair)));
            }
            request.send(body.as_str())
        })
        .await
    }

    /// Reads a secret from the file that the policy names. It is read at each use: a changed secret
    /// needs no restart.
    pub async fn secret(&self, file: &str) -> Result<zeroize::Zeroizing<String>, HttpClientError> {
        let path = self.folder.join(file);
        let text = tokio::fs::read_to_string(&path).await.map(zeroize::Zeroizing::new);
        let text = text.map_err(|error| HttpClientError::Unreachable(format!("{}: {error}", path.display())))?;
        Ok(zeroize::Zeroizing::new(text.trim().to_owned()))
    }
}
