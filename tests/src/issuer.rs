//! An issuer of tokens that is not ours: publishes keys, answers introspection, logs users in; and
//! signs whatever a test wants signed.

use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// One answer of the issuer's server: what is asked (request line and body), and what to say.
type Say = Box<dyn Fn(&str, &str) -> (u16, String) + Send>;

/// A server on loopback that says what it is told to.
pub struct Issuer {
    pub port: u16,
    say: Arc<Mutex<Say>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Issuer {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let say: Arc<Mutex<Say>> = Arc::new(Mutex::new(Box::new(|_, _| (404, String::new()))));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (says, hears) = (say.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (says, hears) = (says.clone(), hears.clone());
                std::thread::spawn(move || serve(stream, &says, &hears));
            }
        });
        Issuer { port, say, asked }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn says(&self, say: impl Fn(&str, &str) -> (u16, String) + Send + 'static) {
        *self.say.lock().unwrap() = Box::new(say);
    }

    /// Publishes keys, whatever is asked.
    pub fn publishes(&self, keys: Vec<Value>) {
        let body = json!({ "keys": keys }).to_string();
        self.says(move |_, _| (200, body.clone()));
    }

    /// What was asked, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut stream: std::net::TcpStream, says: &Mutex<Say>, hears: &Mutex<Vec<String>>) {
    use std::io::{Read as _, Write as _};
    let mut seen = Vec::new();
    let mut buffer = [0u8; 8_192];
    loop {
        let Ok(n) = stream.read(&mut buffer) else { return };
        if n == 0 {
            return;
        }
        seen.extend(&buffer[..n]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned));
        if body.len() < length.map_or(0, |l| l.trim().parse().unwrap()) {
            continue;
        }
        hears.lock().unwrap().push(text.clone());
        let (status, answer) = says.lock().unwrap()(head, body);
        let reply = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
            answer.len()
        );
        let _ = stream.write_all(reply.as_bytes());
        return;
    }
}

/// A key that signs tokens.
pub enum Signer {
    Rsa(Box<RsaKeyPair>),
    Ec(Box<EcdsaKeyPair>),
    Ed(Box<Ed25519KeyPair>),
}

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub fn rsa() -> Self {
        Signer::Rsa(Box::new(RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap()))
    }

    pub fn ec() -> Self {
        Signer::Ec(Box::new(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()))
    }

    pub fn ed() -> Self {
        Signer::Ed(Box::new(Ed25519KeyPair::generate().unwrap()))
    }

    /// Its public key (RFC 7517).
    pub fn jwk(&self, kid: &str) -> Value {
        match self {
            Signer::Rsa(pair) => {
                let public = aws_lc_rs::signature::RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({ "kty": "RSA", "kid": kid, "n": b64(public.n), "e": b64(public.e), "use": "sig", "alg": "RS256" })
            }
            Signer::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": b64(&point[1..33]), "y": b64(&point[33..]) })
            }
            Signer::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64(pair.public_key().as_ref()) })
            }
        }
    }

    fn alg(&self) -> &'static str {
        match self {
            Signer::Rsa(_) => "RS256",
            Signer::Ec(_) => "ES256",
            Signer::Ed(_) => "EdDSA",
        }
    }

    /// Signs header and payload as they are given.
    pub fn sign_text(&self, header: &str, payload: &str) -> String {
        let message = format!("{}.{}", b64(header), b64(payload));
        let random = SystemRandom::new();
        let signature = match self {
            Signer::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
            Signer::Ec(pair) => pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Signer::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", b64(signature))
    }

    /// Signs claims.
    pub fn sign(&self, kid: &str, claims: &Value) -> String {
        self.sign_text(&json!({ "alg": self.alg(), "typ": "at+jwt", "kid": kid }).to_string(), &claims.to_string())
    }
}

/// Unix seconds.
pub fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
