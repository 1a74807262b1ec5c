//! Errors as people and programs read them: RFC 9457's `application/problem+json`.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::password::PasswordError;
use crate::auth::secret::NoRandomness;
use crate::store::StoreError;

/// One field of a request that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldProblem {
    /// Where, such as `scope.hostnames[0]`.
    pub field: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// The status of the answer.
    #[serde(serialize_with = "number")]
    #[schema(value_type = u16)]
    pub status: StatusCode,
    /// The status in words.
    pub title: String,
    /// What was wrong, and what to do.
    pub detail: String,
    /// All fields that cannot be taken, at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
    /// Seconds until it is worth trying again.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

fn number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    /// Any.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
        }
    }

    pub(crate) fn not_found(detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "this page does not take that method",
        )
    }

    pub(crate) fn unauthorized(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// Some fields cannot be taken. Nothing, if there are none.
    pub(crate) fn fields(errors: Vec<FieldProblem>) -> Result<(), Self> {
        if errors.is_empty() {
            return Ok(());
        }
        Err(Self {
            errors,
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "some fields cannot be taken")
        })
    }

    pub(crate) fn field(field: &str, message: impl Into<String>) -> Self {
        Self {
            errors: vec![FieldProblem {
                field: field.to_owned(),
                message: message.into(),
            }],
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "some fields cannot be taken")
        }
    }

    /// Says which field it is about, if the error's source does.
    fn of_field(mut self, error: &dyn std::error::Error) -> Self {
        let said = error.source().map(ToString::to_string);
        if let Some((field, message)) = said.as_deref().and_then(split) {
            self.errors = Self::field(field, message).errors;
        }
        self
    }

    pub(crate) fn later(status: StatusCode, detail: impl Into<String>, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds.max(1)),
            ..Self::new(status, detail)
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry_after) = (self.status, self.retry_after);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            // Names alone are unique and chosen.
            StoreError::Exists => {
                let text = error.to_string();
                Self {
                    errors: Self::field("name", text.clone()).errors,
                    ..Self::new(StatusCode::CONFLICT, text)
                }
            }
            StoreError::InUse(_) => Self::new(StatusCode::CONFLICT, error.to_string()),
            StoreError::Absent => Self::not_found("there is none with this id"),
            StoreError::Migrate(_) | StoreError::Database(_) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, source, "a request failed at the database");
                Self::later(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the database does not answer as it should: see the manager's log",
                    5,
                )
            }
        }
    }
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Length => Self::field("password", error.to_string()),
            PasswordError::Busy => Self::later(StatusCode::SERVICE_UNAVAILABLE, error.to_string(), 5),
            PasswordError::Hash => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

impl From<NoRandomness> for Problem {
    fn from(error: NoRandomness) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        let problem = Self::new(rejection.status(), rejection.body_text());
        match rejection {
            JsonRejection::JsonDataError(error) => problem.of_field(&error),
            _ => problem,
        }
    }
}

/// The field and what is wrong with it, of `scope.cidrs[0]: invalid IP address syntax at line 1 column 9`. A person who filled in a
/// form knows nothing of lines and columns.
fn split(said: &str) -> Option<(&str, &str)> {
    let (field, message) = said.split_once(": ")?;
    let message = message
        .rsplit_once(" at line ")
        .map_or(message, |(message, _)| message);
    let is_place = field.starts_with(|c: char| c.is_ascii_alphabetic()) && !field.contains(' ');
    is_place.then_some((field, message))
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text()).of_field(&rejection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_in_a_body_is_said_of_its_field() {
        let said = "scope.cidrs[0]: invalid IP address syntax at line 1 column 40";
        assert_eq!(split(said), Some(("scope.cidrs[0]", "invalid IP address syntax")));
        for other in [
            "expected value at line 1 column 1",
            ".: missing field",
            "some words: and more",
        ] {
            assert_eq!(split(other), None, "{other}");
        }
    }
}
