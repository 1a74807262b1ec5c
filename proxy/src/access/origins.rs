//! Real registries behind the seam.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use darter_origin::{Credentials, Head, OriginError, Origins};
use darter_types::{ByteRange, Digest, ManifestReference, OriginLocator, RegistryName};
use futures_util::future::BoxFuture;
use http::Response;
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use crate::mirror::{BodyError, ReplyBody};

use super::{ContentHead, HeadResult, Relayed, TagQuery, Upstream};

impl Upstream for Origins {
    fn lends(&self, registry: &RegistryName, user: &dyn Fn() -> Option<u32>) -> bool {
        Self::lends(self, registry, user)
    }

    fn is_answering(&self, registry: &RegistryName, since: Instant) -> bool {
        Self::is_answering(self, registry, since)
    }

    fn head(&self, content: OriginLocator, credentials: Credentials) -> BoxFuture<'static, HeadResult> {
        let origins = self.clone();
        Box::pin(async move {
            let head = Self::head(&origins, &content, &credentials).await?;
            told(&content.registry, Some(content.digest), head)
        })
    }

    fn resolve(&self, tag: TagQuery, credentials: Credentials) -> BoxFuture<'static, HeadResult> {
        let origins = self.clone();
        Box::pin(async move {
            let reference = ManifestReference::Tag(tag.tag);
            let (registry, repository) = (&tag.registry, &tag.repository);
            let head = Self::resolve(
                &origins,
                registry,
                repository,
                &reference,
                &tag.accept,
                &credentials,
            )
            .await?;
            told(registry, None, head)
        })
    }

    fn sample(
        &self,
        content: OriginLocator,
        range: ByteRange,
        credentials: Credentials,
    ) -> BoxFuture<'static, Result<Bytes, Arc<OriginError>>> {
        let origins = self.clone();
        Box::pin(async move {
            let mut fetch = origins
                .fetch(&content, range.start, Some(range.end), &credentials)
                .await?;
            let mut bytes = BytesMut::new();
            while let Some(part) = fetch.next().await? {
                bytes.extend_from_slice(&part);
            }
            Ok(bytes.freeze())
        })
    }

    fn relay(&self, request: Relayed) -> BoxFuture<'static, Result<Response<ReplyBody>, Arc<OriginError>>> {
        let origins = self.clone();
        Box::pin(async move {
            let answer = Self::relay(
                &origins,
                &request.registry,
                request.method,
                &request.path_and_query,
                &request.headers,
                &request.credentials,
            )
            .await?;
            Ok(answer.map(|body| body.map_err(BodyError::from).boxed_unsync()))
        })
    }
}

/// What a registry told; its digest where the question did not name one.
fn told(registry: &RegistryName, asked: Option<Digest>, head: Head) -> HeadResult {
    let unusable = || OriginError::Unusable {
        registry: registry.to_string(),
        reason: "it does not say what the tag points to".to_owned(),
    };
    Ok(ContentHead {
        digest: asked.or(head.digest).ok_or_else(unusable)?,
        length: head.length,
        media_type: head.media_type,
    })
}
