//! How long a body goes on once its right is over, however slowly it is read. Time is paused: nothing here waits.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use darter_origin::Credentials;
use darter_service::net::{PeerAddr, Stream};
use darter_types::{Algorithm, ByteRange, ContentKind, Digest, RegistryName, TaskId};
use futures_util::future::BoxFuture;
use http::Response;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::super::*;
use crate::access::{AccessConfig, ContentHead, HeadResult, Relayed, TagQuery};
use crate::pull::PullRequest;

const LENGTH: u64 = 4_000_000;
const SECOND: Duration = Duration::from_secs(1);
/// The life of a grant.
const GRANT: Duration = Duration::from_secs(60);

/// What a registry says to whoever shows something.
#[derive(Clone, Copy, Debug)]
enum Says {
    Yes,
    No,
    Nothing,
    Nonsense,
}

/// A registry with one private content.
#[derive(Debug)]
struct Gate {
    says: Mutex<Says>,
    asked: AtomicU32,
}

impl Gate {
    fn status(status: StatusCode) -> Arc<OriginError> {
        Arc::new(OriginError::Status {
            registry: "r.test".to_owned(),
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        })
    }

    async fn answer(self: Arc<Self>, digest: Digest, credentials: Credentials) -> HeadResult {
        if credentials == Credentials::Anonymous {
            return Err(Self::status(StatusCode::UNAUTHORIZED));
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        let says = *self.says.lock().unwrap();
        match says {
            Says::Yes => Ok(ContentHead {
                digest,
                length: Some(LENGTH),
                media_type: None,
            }),
            Says::No => Err(Self::status(StatusCode::FORBIDDEN)),
            Says::Nothing => std::future::pending().await,
            Says::Nonsense => Err(Self::status(StatusCode::BAD_GATEWAY)),
        }
    }
}

/// The seam, as others hold it.
#[derive(Clone, Debug)]
struct Handle(Arc<Gate>);

impl Upstream for Handle {
    fn head(&self, content: OriginLocator, credentials: Credentials) -> BoxFuture<'static, HeadResult> {
        Box::pin(Arc::clone(&self.0).answer(content.digest, credentials))
    }

    fn resolve(&self, _: TagQuery, _: Credentials) -> BoxFuture<'static, HeadResult> {
        unreachable!("no tag is asked for")
    }

    fn sample(
        &self,
        _: OriginLocator,
        _: ByteRange,
        _: Credentials,
    ) -> BoxFuture<'static, Result<Bytes, Arc<OriginError>>> {
        unreachable!("nothing is read here")
    }

    fn is_answering(&self, _: &RegistryName, _: Instant) -> bool {
        true
    }

    fn relay(&self, _: Relayed) -> BoxFuture<'static, Result<Response<ReplyBody>, Arc<OriginError>>> {
        unreachable!("nothing is relayed here")
    }
}

/// The content, which is here.
#[derive(Debug)]
struct Zeros;

fn content() -> OriginLocator {
    OriginLocator {
        registry: "r.test".parse::<RegistryName>().unwrap(),
        repository: "secret".parse().unwrap(),
        kind: ContentKind::Blob,
        digest: Digest::of(Algorithm::Sha256, b"zeros"),
    }
}

fn known() -> KnownContent {
    KnownContent {
        length: LENGTH,
        media_type: None,
        origin: Some(content()),
    }
}

impl Contents for Zeros {
    fn open(&self, _: PullRequest) -> Result<Arc<dyn OpenContent>, PullError> {
        Ok(Arc::new(Self))
    }

    fn holds(&self, _: TaskId) -> Option<KnownContent> {
        Some(known())
    }

    fn source(&self, _: TaskId) -> Option<Source> {
        Some(Source {
            origin: Some(content()),
            public: false,
        })
    }
}

impl OpenContent for Zeros {
    fn known(&self) -> BoxFuture<'_, Result<KnownContent, PullError>> {
        Box::pin(async { Ok(known()) })
    }

    fn awaits_origin(&self, _: Instant) -> bool {
        false
    }

    fn read(&self, range: ByteRange) -> ContentStream {
        let parts = (range.start..range.end).step_by(1 << 20);
        let length = move |at: u64| ByteRange::new(at, range.end.min(at + (1 << 20))).indices().len();
        let part = move |at: u64| Ok(Bytes::from(vec![0; length(at)]));
        Box::pin(futures_util::stream::iter(parts.map(part)))
    }
}

/// A mirror before that registry.
struct Lab {
    gate: Arc<Gate>,
    mirror: Mirror,
}

impl Lab {
    fn new() -> Self {
        let gate = Arc::new(Gate {
            says: Mutex::new(Says::Yes),
            asked: AtomicU32::new(0),
        });
        let upstream: Arc<dyn Upstream> = Arc::new(Handle(Arc::clone(&gate)));
        let access = Access::new(Arc::clone(&upstream), AccessConfig::default(), [1; 32]);
        let metrics = MirrorMetrics::register(&mut Registry::default());
        let config = MirrorConfig::default();
        let mirror = Mirror::new(config, Arc::new(Zeros), access, upstream, metrics, 7);
        Self { gate, mirror }
    }

    fn says(&self, says: Says) {
        *self.gate.says.lock().unwrap() = says;
    }

    fn asked(&self) -> u32 {
        self.gate.asked.swap(0, Ordering::Relaxed)
    }

    /// Serves one connection that holds few bytes on its way, while `client` is at its other end.
    async fn serve<T>(&self, client: impl AsyncFnOnce(DuplexStream) -> T) -> T {
        let (near, far) = tokio::io::duplex(4096);
        let stream = Stream::Other(Box::new(far));
        let connection = Client::of(&stream, PeerAddr::Unix { uid: None });
        let served = self
            .mirror
            .serve_connection(stream, connection, CancellationToken::new());
        tokio::join!(client(near), served).0
    }
}

async fn ask(stream: &mut DuplexStream, token: &str) {
    let digest = content().digest;
    let request = format!(
        "GET /v2/secret/blobs/{digest}?ns=r.test HTTP/1.1\r\nHost: m\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// Reads so many bytes a second until the end; how many, and when the last one came.
async fn read_slowly(stream: &mut DuplexStream, rate: usize) -> (u64, Instant) {
    let (mut total, mut last) = (0, Instant::now());
    let mut part = vec![0; rate];
    loop {
        // An end that is none is an error here.
        match stream.read(&mut part).await.unwrap() {
            0 => return (total, last),
            count => total += count as u64,
        }
        last = Instant::now();
        sleep(SECOND).await;
    }
}

/// A token that says that it is over after so long.
#[expect(
    clippy::disallowed_methods,
    reason = "a token tells its end by the wall clock"
)]
fn token(life: Duration) -> String {
    let now = std::time::SystemTime::now();
    let end = (now + life).duration_since(std::time::UNIX_EPOCH).unwrap();
    let claims = format!(r#"{{"exp":{}}}"#, end.as_secs());
    format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims))
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_no_byte_a_minute_after_its_right_was_revoked() {
    for says in [Says::No, Says::Nothing, Says::Nonsense] {
        for after in [1, 30, 59, 100] {
            let lab = Lab::new();
            let (bytes, late) = lab
                .serve(async |mut stream| {
                    ask(&mut stream, "alice").await;
                    let revoked = Instant::now() + after * SECOND;
                    let revoke = async {
                        tokio::time::sleep_until(revoked).await;
                        lab.says(says);
                    };
                    let ((bytes, last), ()) = tokio::join!(read_slowly(&mut stream, 1000), revoke);
                    (bytes, last.saturating_duration_since(revoked))
                })
                .await;
            assert!(
                bytes > 500 * u64::from(after) && bytes < LENGTH,
                "{says:?}: {bytes}"
            );
            // What is on its way when the body ends still arrives.
            assert!(
                late <= GRANT + 6 * SECOND,
                "{says:?} after {after} s: {late:?} late"
            );
            if matches!(says, Says::No) {
                let status = lab
                    .serve(async |mut stream| {
                        ask(&mut stream, "alice").await;
                        let mut head = [0; 12];
                        stream.read_exact(&mut head).await.unwrap();
                        String::from_utf8(head.to_vec()).unwrap()
                    })
                    .await;
                assert_eq!(status, "HTTP/1.1 403");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut_off_as_well() {
    let lab = Lab::new();
    let began = Instant::now();
    lab.serve(async |mut stream| {
        ask(&mut stream, "alice").await;
        sleep(SECOND).await;
        lab.says(Says::No);
        sleep(GRANT + 10 * SECOND).await;
        let (bytes, _) = read_slowly(&mut stream, 1 << 20).await;
        assert!(bytes <= 4096, "{bytes} bytes waited for it");
    })
    .await;
    assert!(began.elapsed() < 2 * GRANT, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_may_go_on_reading_is_asked_about_now_and_then() {
    let lab = Lab::new();
    let minutes = lab
        .serve(async |mut stream| {
            ask(&mut stream, "alice").await;
            let began = Instant::now();
            let mut part = [0; 5000];
            let mut total = 0;
            while total < LENGTH {
                total += stream.read(&mut part).await.unwrap() as u64;
                sleep(SECOND).await;
            }
            began.elapsed().as_secs() / 60
        })
        .await;
    let asked = u64::from(lab.asked());
    assert!(minutes >= 10, "{minutes}");
    assert!(
        (minutes..2 * minutes).contains(&asked),
        "{asked} questions in {minutes} minutes"
    );
}

#[tokio::test(start_paused = true)]
async fn readers_of_one_right_ask_once() {
    let lab = Lab::new();
    lab.serve(async |mut first| {
        ask(&mut first, "alice").await;
        lab.serve(async |mut second| {
            ask(&mut second, "alice").await;
            let mut part = [0; 1000];
            for _ in 0..110 {
                assert!(first.read(&mut part).await.unwrap() > 0);
                assert!(second.read(&mut part).await.unwrap() > 0);
                sleep(SECOND).await;
            }
            drop((first, second));
        })
        .await;
    })
    .await;
    assert_eq!(lab.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_over_soon_is_asked_about_sooner() {
    let lab = Lab::new();
    let late = lab
        .serve(async |mut stream| {
            ask(&mut stream, &token(15 * SECOND)).await;
            let began = Instant::now();
            sleep(SECOND).await;
            lab.says(Says::No);
            let (_, last) = read_slowly(&mut stream, 1000).await;
            last - began
        })
        .await;
    assert!(late <= 22 * SECOND, "{late:?}");
}
