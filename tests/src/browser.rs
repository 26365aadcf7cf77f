//! A browser without a screen: cookies, redirects and forms of the authorization server's pages;
//! and an OAuth client that makes the requests it is told to.

use crate::client::Response;
use crate::gateway::Gateway;
use crate::world::World;

pub const AUTH: &str = "https://auth.iconflow.dev";
pub const CALLBACK: &str = "https://pixelforge.design/callback/iconflow";
/// The pair of RFC 7636 appendix B.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
pub const PASSWORD: &str = "correct horse battery";

/// An application as it was registered.
#[derive(Clone, Debug)]
pub struct App {
    pub id: String,
    pub secret: Option<String>,
}

/// Tokens as they were issued.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
}

impl Tokens {
    pub fn of(answer: &Response) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        let json = answer.json();
        let text = |name: &str| json[name].as_str().unwrap().to_owned();
        Tokens { access: text("access_token"), refresh: text("refresh_token") }
    }

    /// Claims of the access token, unverified.
    pub fn claims(&self) -> serde_json::Value {
        part(&self.access, 1)
    }
}

/// A part of a token as JSON.
pub fn part(token: &str, number: usize) -> serde_json::Value {
    use base64::Engine as _;
    let text = token.trim_start_matches("iat_").split('.').nth(number).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
}

/// The S256 challenge of a verifier.
pub fn challenge(verifier: &str) -> String {
    crate::issuer::b64(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes()))
}

/// Form-encodes.
pub fn form(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| {
        text.bytes()
            .map(|b| match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
                other => format!("%{other:02X}"),
            })
            .collect::<String>()
    };
    fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect::<Vec<_>>().join("&")
}

/// A parameter of a URL's query, decoded.
pub fn parameter(url: &str, name: &str) -> Option<String> {
    let query = url.split_once('?')?.1;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")))?;
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let hex = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    Some(String::from_utf8(bytes).unwrap())
}

/// The value of a hidden field of a page.
pub fn hidden(page: &Response, name: &str) -> String {
    let text = String::from_utf8_lossy(&page.body);
    let start = format!("name=\"{name}\" value=\"");
    let from = text.find(&start).unwrap_or_else(|| panic!("no {name} in {text}")) + start.len();
    text[from..].split('"').next().unwrap().to_owned()
}

impl World {
    /// Registers an application of the organization `acme`.
    pub fn app(&self, arguments: &[&str]) -> App {
        let mut all = vec!["apps", "register", "--name", "PixelForge Design Tool", "--org", "acme"];
        all.extend(["--scopes", "packs:read,downloads:read"]);
        if !arguments.contains(&"--redirect-uri") {
            all.extend(["--redirect-uri", CALLBACK]);
        }
        all.extend(arguments);
        let made = self.json(&all);
        let text = |name: &str| made[name].as_str().map(str::to_owned);
        App { id: text("id").unwrap(), secret: text("client_secret") }
    }

    /// Adds a user of the organization `acme`; returns the id.
    pub fn user(&self, email: &str) -> String {
        let arguments = ["--json", "users", "add", email, "--name", "Jo", "--org", "acme", "--password-stdin"];
        let out = self.tollgate_with(&arguments, PASSWORD);
        assert!(out.status.success(), "{out:?}");
        let made: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        made["id"].as_str().unwrap().to_owned()
    }
}

impl App {
    /// The URL of an authorization request as on the IconFlow page; later parameters replace earlier
    /// ones, and an empty value takes one out.
    pub fn authorize_url(&self, changes: &[(&str, &str)]) -> String {
        let mut parameters = vec![
            ("response_type", "code"),
            ("client_id", &*self.id),
            ("redirect_uri", CALLBACK),
            ("scope", "packs:read downloads:read"),
            ("state", "xL8mQ2pR5tY9wN"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        for (name, value) in changes {
            parameters.retain(|(known, _)| known != name);
            if !value.is_empty() {
                parameters.push((name, value));
            }
        }
        format!("{AUTH}/oauth/authorize?{}", form(&parameters))
    }

    fn login(&self) -> Vec<(String, String)> {
        use base64::Engine as _;
        let Some(secret) = &self.secret else { return Vec::new() };
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{}:{secret}", self.id));
        vec![("authorization".into(), format!("Basic {pair}"))]
    }

    /// Sends a form to an endpoint as this client authenticates itself.
    pub fn post(&self, gateway: &Gateway, path: &str, fields: &[(&str, &str)]) -> Response {
        let mut all = fields.to_vec();
        if self.secret.is_none() {
            all.push(("client_id", &self.id));
        }
        let login = self.login();
        let login: Vec<(&str, &str)> = login.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        post(gateway, path, &login, &form(&all))
    }

    /// Exchanges a code as on the IconFlow page.
    pub fn exchange(&self, gateway: &Gateway, code: &str) -> Response {
        self.exchange_with(gateway, code, CALLBACK, VERIFIER)
    }

    pub fn exchange_with(&self, gateway: &Gateway, code: &str, callback: &str, verifier: &str) -> Response {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", callback),
            ("code_verifier", verifier),
        ];
        self.post(gateway, "/oauth/token", &fields)
    }

    pub fn refresh(&self, gateway: &Gateway, token: &str) -> Response {
        self.post(gateway, "/oauth/token", &[("grant_type", "refresh_token"), ("refresh_token", token)])
    }

    /// The whole flow: a new browser, login, consent, exchange.
    pub fn tokens(&self, gateway: &Gateway, email: &str) -> Tokens {
        let code = Browser::default().code(gateway, self, email);
        Tokens::of(&self.exchange(gateway, &code))
    }
}

/// Sends a form to the authorization server.
pub fn post(gateway: &Gateway, path: &str, fields: &[(&str, &str)], body: &str) -> Response {
    let mut all = vec![("content-type", "application/x-www-form-urlencoded")];
    all.extend(fields);
    gateway.ask_with_body("POST", &format!("{AUTH}{path}"), None, &all, body.as_bytes())
}

/// Cookies of the authorization server.
#[derive(Clone, Debug)]
pub struct Browser {
    pub cookies: Vec<(String, String)>,
    pub origin: String,
}

impl Default for Browser {
    fn default() -> Self {
        Browser { cookies: Vec::new(), origin: AUTH.to_owned() }
    }
}

impl Browser {
    fn cookie(&self) -> String {
        self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    fn keep(&mut self, answer: &Response) {
        for (_, value) in answer.fields.iter().filter(|(name, _)| name == "set-cookie") {
            for attribute in ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"] {
                assert!(value.contains(attribute), "{value}");
            }
            let (name, rest) = value.split_once('=').unwrap();
            assert!(name.starts_with("__Host-"));
            self.cookies.retain(|(known, _)| known != name);
            let value = rest.split(';').next().unwrap();
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    /// One GET, no redirect followed.
    pub fn get(&mut self, gateway: &Gateway, url: &str) -> Response {
        let url = if url.starts_with('/') { format!("{}{url}", self.origin) } else { url.to_owned() };
        let cookie = self.cookie();
        let fields: &[(&str, &str)] = if cookie.is_empty() { &[] } else { &[("cookie", &cookie)] };
        let answer = gateway.ask("GET", &url, None, fields);
        self.keep(&answer);
        answer
    }

    /// One POST of a form, no redirect followed.
    pub fn post(&mut self, gateway: &Gateway, path: &str, fields: &[(&str, &str)]) -> Response {
        let cookie = self.cookie();
        let fields = form(fields);
        let (origin, kind) = (self.origin.clone(), "application/x-www-form-urlencoded");
        let head = [("content-type", kind), ("cookie", &cookie), ("origin", &origin)];
        let answer = gateway.ask_with_body("POST", &format!("{origin}{path}"), None, &head, fields.as_bytes());
        self.keep(&answer);
        answer
    }

    /// Follows redirects inside the authorization server; the last answer.
    pub fn visit(&mut self, gateway: &Gateway, url: &str) -> Response {
        let mut answer = self.get(gateway, url);
        while let Some(next) = answer.field("location").map(str::to_owned).filter(|next| next.starts_with('/')) {
            answer = self.get(gateway, &next);
        }
        answer
    }

    /// Fills the login form of a page, and follows to what comes next.
    pub fn log_in(&mut self, gateway: &Gateway, page: &Response, email: &str) -> Response {
        let (flow, csrf) = (hidden(page, "login_request"), hidden(page, "csrf"));
        let fields = [("login_request", &*flow), ("csrf", &csrf), ("email", email), ("password", PASSWORD)];
        let answer = self.post(gateway, "/oauth/login", &fields);
        match answer.field("location").map(str::to_owned) {
            Some(next) if next.starts_with('/') => self.visit(gateway, &next),
            _ => answer,
        }
    }

    /// Presses a button of the consent page; the redirect back to the application.
    pub fn decide(&mut self, gateway: &Gateway, page: &Response, decision: &str) -> Response {
        let (flow, csrf) = (hidden(page, "login_request"), hidden(page, "csrf"));
        let organization = hidden(page, "organization");
        let fields =
            [("login_request", &*flow), ("csrf", &csrf), ("organization", &organization), ("decision", decision)];
        self.post(gateway, "/oauth/consent", &fields)
    }

    /// Logs in and allows; where the browser is sent.
    pub fn allow(&mut self, gateway: &Gateway, url: &str, email: &str) -> String {
        let mut page = self.visit(gateway, url);
        if String::from_utf8_lossy(&page.body).contains("action=\"/oauth/login\"") {
            page = self.log_in(gateway, &page, email);
        }
        if page.status == 200 {
            page = self.decide(gateway, &page, "allow");
        }
        assert_eq!(page.status, 303, "{page:?}");
        page.field("location").unwrap().to_owned()
    }

    /// The code of the usual request.
    pub fn code(&mut self, gateway: &Gateway, app: &App, email: &str) -> String {
        let location = self.allow(gateway, &app.authorize_url(&[]), email);
        parameter(&location, "code").unwrap_or_else(|| panic!("no code in {location}"))
    }
}
