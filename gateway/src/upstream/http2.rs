//! A backend that speaks HTTP/2: one request on a connection that others share (RFC 9113). The library (h2) has the
//! frames.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::header::HeaderMap;
use http::response::Parts;
use http::{Method, Request, Uri};
use http1::framing::of_response;
use http1::head::Version;

use super::fault::BackendFault;
use super::request::BackendRequest;
use super::shared::Stream;
use crate::base::field_sink::{BadValue, FieldMap, FieldSource};
use crate::base::message::{Fields, ResponseHead};
use crate::base::timer::Timer;

/// Most fields that are added to those of a client.
const OURS_MAX: usize = 12;

/// One request and its answer.
#[derive(Debug)]
pub struct Http2 {
    stream: Stream,
    /// Longest silence while an answer is waited for.
    pub silence: Duration,
    timer: Timer,
    is_head_asked: bool,
    response: Option<ResponseFuture>,
    /// The head that came last, and the one length that it says.
    head: Option<(Parts, Option<u64>)>,
    body: Option<RecvStream>,
}

impl Http2 {
    /// On a stream that carries nothing yet.
    pub(super) fn new(stream: Stream) -> Self {
        Http2 {
            stream,
            silence: Duration::MAX,
            timer: Timer::default(),
            is_head_asked: false,
            response: None,
            head: None,
            body: None,
        }
    }

    /// The stream.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Sends a head; gives what takes the body. `is_whole` when there is none.
    pub fn send_head(
        &mut self,
        request: &BackendRequest<'_, impl FieldSource>,
        (is_tls, is_whole): (bool, bool),
    ) -> Result<SendStream<Bytes>, BackendFault> {
        self.is_head_asked = request.method == "HEAD";
        let head = over_http2(request, is_tls)?;
        let requests: &mut SendRequest<Bytes> = self.stream.requests();
        let (response, body) = requests.send_request(head, is_whole).map_err(BackendFault::Http2)?;
        self.response = Some(response);
        Ok(body)
    }

    /// Waits for a head: an informational one, or the final one.
    pub async fn read_head(&mut self) -> Result<(), BackendFault> {
        let Some(response) = &mut self.response else {
            return Err(BackendFault::Nonsense("an answer to nothing"));
        };
        let next = std::future::poll_fn(|cx| poll_head(response, cx));
        let next = self.timer.within(self.silence, pin!(next)).await.ok_or(BackendFault::Silent)?;
        let (head, body) = next.map_err(BackendFault::Http2)?;
        let of = (Version::Http11, head.status.as_u16());
        let of = of_response(of, Fields::Map(&head.headers).iter(), self.is_head_asked)?;
        self.head = Some((head, of.length));
        self.body = body;
        Ok(())
    }

    /// The head that came last.
    pub fn head(&self) -> Option<ResponseHead<'_>> {
        self.head.as_ref().map(|(head, length)| ResponseHead {
            status: head.status.as_u16(),
            reason: b"",
            length: *length,
            fields: Fields::Map(&head.headers),
        })
    }

    /// The next bytes of the body; `None` at its end.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, BackendFault> {
        let Some(body) = &mut self.body else { return Ok(None) };
        let data = std::future::poll_fn(|cx| body.poll_data(cx));
        let data = self.timer.within(self.silence, pin!(data)).await.ok_or(BackendFault::Silent)?;
        let data = data.transpose().map_err(BackendFault::Http2)?;
        if let Some(data) = &data {
            let _ = body.flow_control().release_capacity(data.len());
        }
        Ok(data)
    }

    /// Whether the answer is over: `false` while there are trailers to read.
    pub fn is_done(&mut self) -> Result<bool, BackendFault> {
        let Some(body) = self.body.as_mut().filter(|body| body.is_end_stream()) else { return Ok(false) };
        // The library also says that of a stream that ended with an error (hyperium/h2#806), and tells the error
        // when it is asked for more. A reset behind the end, with which a backend asks not to be sent the rest of the
        // request (RFC 9113 section 8.1), is none.
        match body.poll_data(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(None) => Ok(true),
            Poll::Ready(Some(Err(error))) => Err(BackendFault::Http2(error)),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => Err(BackendFault::Nonsense("more behind the end of an answer")),
        }
    }

    /// The trailers, after the body.
    pub async fn read_trailers(&mut self) -> Result<Option<HeaderMap>, BackendFault> {
        let Some(body) = &mut self.body else { return Ok(None) };
        let trailers = std::future::poll_fn(|cx| body.poll_trailers(cx));
        let trailers = self.timer.within(self.silence, pin!(trailers)).await.ok_or(BackendFault::Silent)?;
        trailers.map_err(BackendFault::Http2)
    }
}

/// A head, and what gives the body behind it if it is the final one.
type NextHead = Result<(Parts, Option<RecvStream>), h2::Error>;

fn poll_head(response: &mut ResponseFuture, cx: &mut Context<'_>) -> Poll<NextHead> {
    if let Poll::Ready(Some(informational)) = response.poll_informational(cx) {
        return Poll::Ready(informational.map(|head| (head.into_parts().0, None)));
    }
    Pin::new(response).poll(cx).map_ok(|response| {
        let (head, body) = response.into_parts();
        (head, Some(body))
    })
}

/// A request as a head of HTTP/2: the host is the authority (RFC 9113 section 8.3.1).
fn over_http2(request: &BackendRequest<'_, impl FieldSource>, is_tls: bool) -> Result<Request<()>, BadValue> {
    let mut fields = FieldMap::with_capacity(OURS_MAX);
    request.fields.put_into(&mut fields);
    request.put_framing(&mut fields);
    let scheme = if is_tls { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(request.host).path_and_query(request.target).build();
    let mut head = Request::new(());
    *head.method_mut() = Method::from_bytes(request.method.as_bytes()).map_err(|_| BadValue)?;
    *head.uri_mut() = uri.map_err(|_| BadValue)?;
    *head.version_mut() = http::Version::HTTP_2;
    *head.headers_mut() = fields.end()?;
    Ok(head)
}
