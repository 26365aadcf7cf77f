//! A client over HTTP/2 that ends its bodies as the test wants it.

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use tokio::net::TcpStream;

use crate::Key;

/// One HTTP/2 connection, without TLS, to a trusted listener.
#[derive(Clone)]
pub struct Http2 {
    client: SendRequest<Bytes>,
}

/// One whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl Http2 {
    pub async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Http2 { client }
    }

    /// The same, and asks once with a key: until the settings of the gateway have come, a client does not know that
    /// it may ask for a WebSocket.
    pub async fn greet(port: u16, url: &str, key: &Key) -> Self {
        let client = Self::connect(port).await;
        let request = Request::get(url).header("authorization", key.bearer()).body(()).unwrap();
        assert_eq!(client.ask(request).await.unwrap().status, 200);
        client
    }

    /// Asks for a WebSocket (RFC 8441); gives the answer's head, and both directions.
    pub async fn websocket(
        &self,
        url: &str,
        key: Option<&Key>,
        fields: &[(&str, &str)],
    ) -> Result<(http::Response<()>, RecvStream, SendStream<Bytes>), h2::Error> {
        let mut request = Request::builder().method(Method::CONNECT).uri(url).header("sec-websocket-version", "13");
        if let Some(key) = key {
            request = request.header("authorization", key.bearer());
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let (answer, to) = self.begin(request, false).await;
        let (head, from) = answer.await?.into_parts();
        Ok((http::Response::from_parts(head, ()), from, to))
    }

    /// Begins a request; `is_whole` says that no body follows.
    pub async fn begin(&self, request: Request<()>, is_whole: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut client = self.client.clone().ready().await.unwrap();
        client.send_request(request, is_whole).unwrap()
    }

    /// A request without a body, and its answer.
    pub async fn ask(&self, request: Request<()>) -> Result<Answer, h2::Error> {
        let (answer, _) = self.begin(request, true).await;
        whole(answer).await
    }

    /// A request whose body comes in these pieces; an empty one of its own ends it.
    pub async fn stream(&self, request: Request<()>, pieces: &[&[u8]]) -> Result<Answer, h2::Error> {
        let (answer, mut body) = self.begin(request, false).await;
        for piece in pieces {
            send(&mut body, piece).await?;
        }
        body.send_data(Bytes::new(), true)?;
        whole(answer).await
    }
}

/// Sends a piece of a body as fast as the other side takes it.
pub async fn send(body: &mut SendStream<Bytes>, piece: &[u8]) -> Result<(), h2::Error> {
    let mut rest = Bytes::copy_from_slice(piece);
    while !rest.is_empty() {
        body.reserve_capacity(rest.len());
        let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
        let room = room.unwrap_or(Err(h2::Reason::STREAM_CLOSED.into()))?;
        body.send_data(rest.split_to(room.min(rest.len())), false)?;
    }
    Ok(())
}

/// Reads an answer to its end.
pub async fn whole(answer: ResponseFuture) -> Result<Answer, h2::Error> {
    let answer = answer.await?;
    let (status, fields) = (answer.status().as_u16(), answer.headers().clone());
    let mut stream: RecvStream = answer.into_body();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    Ok(Answer { status, fields, body, trailers: stream.trailers().await? })
}
