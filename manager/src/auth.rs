//! Who asks, and what they may do.
//!
//! What must hold: each route says who may use it ([`Policy`]), and one that does not say it cannot be written; passwords are
//! kept as argon2id, sessions and tokens as an HMAC under a key of this installation; who guesses is slowed down and written
//! about ([`throttle`]).

pub mod password;
pub mod secret;
pub mod throttle;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

/// What somebody may do. Each may what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See everything but users and the audit.
    Viewer,
    /// Change what clusters do.
    Operator,
    /// Change who may do what, and see who did what.
    Admin,
}

/// A text that is no role.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no role: write admin, operator or viewer")]
pub struct UnknownRole(String);

impl Role {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let all = [Self::Viewer, Self::Operator, Self::Admin];
        let found = all.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Everybody: signing in, and what says nothing.
    Open,
    /// Whoever signed in and has at least this role.
    AtLeast(Role),
    /// As [`Policy::AtLeast`] a viewer, but in a browser's session: tokens make no tokens.
    Session,
}

/// How somebody showed who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// By a browser's cookie, with the hash of the session.
    Session(String),
    /// By a token.
    Token,
}

/// Somebody who is known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is what its name says")]
pub struct Principal {
    pub id: String,
    pub name: String,
    /// The user's, or the token's where that is less.
    pub role: Role,
    pub via: Via,
}

impl Policy {
    /// Whether somebody who is known may.
    pub fn allows(self, principal: &Principal) -> bool {
        match self {
            Self::Open => true,
            Self::AtLeast(role) => principal.role >= role,
            Self::Session => matches!(principal.via, Via::Session(_)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_ordered_and_read_as_they_are_written() {
        assert!(Role::Admin > Role::Operator && Role::Operator > Role::Viewer);
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        let error = "Admin".parse::<Role>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"Admin\" is no role: write admin, operator or viewer"
        );
    }

    #[test]
    fn a_policy_looks_at_the_role_and_the_way() {
        let somebody = |role, via| Principal {
            id: String::new(),
            name: String::new(),
            role,
            via,
        };
        let session = || Via::Session(String::new());
        assert!(Policy::AtLeast(Role::Operator).allows(&somebody(Role::Admin, Via::Token)));
        assert!(!Policy::AtLeast(Role::Operator).allows(&somebody(Role::Viewer, session())));
        assert!(Policy::Session.allows(&somebody(Role::Viewer, session())));
        assert!(!Policy::Session.allows(&somebody(Role::Admin, Via::Token)));
    }
}
