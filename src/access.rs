//! Who may do what on a cluster. The list is part of the machine's state; no backend sees it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::Index;

/// What the identity of a client begins with; its name follows.
pub const CLIENT_PREFIX: &str = "zraft://client/";
/// What the identity of an administrator begins with.
pub const ADMIN_PREFIX: &str = "zraft://admin/";
/// What the identity of a node begins with.
pub const NODE_PREFIX: &str = "zraft://node/";

/// Whether a client or an administrator may be called so.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=AccessList::MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(allowed)
}

/// The client that an identity names, as lists name it; none for nodes and administrators, who may do everything. What is no
/// identity names a client that is on no list.
#[must_use]
pub fn client_of(identity: &str) -> Option<&str> {
    let may_do_everything = identity.starts_with(ADMIN_PREFIX) || identity.starts_with(NODE_PREFIX);
    (!may_do_everything).then(|| identity.strip_prefix(CLIENT_PREFIX).unwrap_or(identity))
}

/// What a client may do; each includes those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Access {
    /// Query, and hold sessions to query with.
    Read,
    /// Write.
    Write,
    /// Change the cluster: its peers, its leader, its list, its end.
    Admin,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        })
    }
}

/// Not what a client may do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an access: write read, write or admin")]
pub struct AccessParseError(String);

impl FromStr for Access {
    type Err = AccessParseError;

    fn from_str(text: &str) -> Result<Self, AccessParseError> {
        match text {
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            "admin" => Ok(Self::Admin),
            _ => Err(AccessParseError(text.to_owned())),
        }
    }
}

/// What clients may do on a cluster. Nodes and administrators are not asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessList {
    /// What a client may that is not named: nothing, read or write.
    pub default: Option<Access>,
    /// What those may that are named, by the name in the certificate.
    pub named: BTreeMap<String, Access>,
}

impl Default for AccessList {
    /// Every client may read and write.
    fn default() -> Self {
        Self { default: Some(Access::Write), named: BTreeMap::new() }
    }
}

impl AccessList {
    /// Most clients that a list may name.
    pub const MAX_NAMED: usize = 1_000;
    /// Longest name of a client, in bytes.
    pub const MAX_NAME_LEN: usize = 64;

    /// Whether a cluster can have this list.
    ///
    /// # Errors
    /// [`AccessListError`] tells what is wrong with it.
    pub fn check(&self) -> Result<(), AccessListError> {
        if self.named.len() > Self::MAX_NAMED {
            return Err(AccessListError::TooMany { count: self.named.len() });
        }
        if self.default == Some(Access::Admin) {
            return Err(AccessListError::AllAreAdmins);
        }
        match self.named.keys().find(|name| !is_name(name)) {
            Some(name) => Err(AccessListError::Name(name.chars().take(Self::MAX_NAME_LEN).collect())),
            None => Ok(()),
        }
    }

    /// What a client may do.
    #[must_use]
    pub fn of(&self, client: &str) -> Option<Access> {
        self.named.get(client).copied().or(self.default)
    }

    /// Whether a client may do what needs this.
    ///
    /// # Errors
    /// [`AccessDenied`] if not.
    pub fn check_client(&self, client: &str, needed: Access) -> Result<(), AccessDenied> {
        if self.of(client) >= Some(needed) {
            return Ok(());
        }
        Err(AccessDenied { client: client.to_owned(), needed })
    }

    /// Whether whoever has this identity may do what needs this.
    ///
    /// # Errors
    /// [`AccessDenied`] if not.
    pub fn check_identity(&self, identity: &str, needed: Access) -> Result<(), AccessDenied> {
        client_of(identity).map_or(Ok(()), |client| self.check_client(client, needed))
    }
}

/// The list of a cluster, and which one it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessControl {
    /// The list.
    pub list: AccessList,
    /// The entry that has set it; zero if none has.
    pub set_at: Index,
}

/// A client may not do what it has asked for. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error(
    "this needs {needed} access to the cluster, which client '{client}' does not have; \
     an admin can give it by `zraft access PEER --grant {client}={needed}`"
)]
pub struct AccessDenied {
    /// The client, by the name in its certificate.
    pub client: String,
    /// What it would need.
    pub needed: Access,
}

/// No cluster can have such a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AccessListError {
    /// It names too many.
    #[error("an access list names at most {max} clients, not {count}; give what most may do as the default",
        max = AccessList::MAX_NAMED)]
    TooMany {
        /// How many it names.
        count: usize,
    },
    /// No certificate has such a name.
    #[error("'{0}' is not the name of a client: use 1 to {max} letters, digits, '-', '_' or '.'",
        max = AccessList::MAX_NAME_LEN)]
    Name(String),
    /// Who is not named must not be an admin.
    #[error("the default access is none, read or write: admins are named")]
    AllAreAdmins,
}

/// Why the access list of a cluster was not set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AccessRefusal {
    /// It is another than was thought.
    #[error("the access list was not changed: somebody else has changed it meanwhile; look at it and try again")]
    Changed {
        /// The entry that has set the present one; zero if none has.
        now: Index,
    },
    /// No cluster can have such a list.
    #[error("the access list was not changed: {0}")]
    Invalid(AccessListError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(default: Option<Access>, named: &[(&str, Access)]) -> AccessList {
        AccessList { default, named: named.iter().map(|(name, access)| ((*name).to_owned(), *access)).collect() }
    }

    #[test]
    fn each_access_includes_those_before_and_names_come_before_the_default() {
        let list = list(Some(Access::Write), &[("alice", Access::Admin), ("bob", Access::Read)]);
        let may = |client: &str| {
            let all = [Access::Read, Access::Write, Access::Admin];
            all.map(|needed| list.check_client(client, needed).is_ok())
        };
        assert_eq!(may("alice"), [true, true, true]);
        assert_eq!(may("bob"), [true, false, false], "less than the default is possible");
        assert_eq!(may("carol"), [true, true, false]);
        assert!(AccessList { default: None, ..list.clone() }.check_client("carol", Access::Read).is_err());
    }

    #[test]
    fn nodes_and_administrators_are_not_asked_and_what_is_no_identity_is_no_administrator() {
        let closed = list(None, &[("alice", Access::Read)]);
        for identity in ["zraft://node/h:1", "zraft://admin/alice", "zraft://client/alice"] {
            assert_eq!(closed.check_identity(identity, Access::Read), Ok(()), "{identity}");
        }
        assert_eq!(closed.check_identity("zraft://admin/bob", Access::Admin), Ok(()));
        for identity in ["zraft://client/bob", "", "admin", "zraft://root/x", "zraft://client/zraft://admin/bob"] {
            let denied = closed.check_identity(identity, Access::Read).unwrap_err();
            assert_eq!(denied.needed, Access::Read, "{identity}");
        }
    }

    #[test]
    fn a_list_that_no_cluster_can_have_is_refused_by_what_is_wrong() {
        let many = |count: usize| AccessList {
            named: (0..count).map(|number| (number.to_string(), Access::Read)).collect(),
            ..AccessList::default()
        };
        assert_eq!(many(AccessList::MAX_NAMED).check(), Ok(()));
        let count = AccessList::MAX_NAMED + 1;
        assert_eq!(many(count).check(), Err(AccessListError::TooMany { count }));
        assert_eq!(list(Some(Access::Admin), &[]).check(), Err(AccessListError::AllAreAdmins));
        for name in ["", "a/b", "a b", &"a".repeat(AccessList::MAX_NAME_LEN + 1)] {
            let refused = list(None, &[(name, Access::Read)]).check();
            assert!(matches!(refused, Err(AccessListError::Name(_))), "{name}: {refused:?}");
        }
    }

    #[test]
    fn an_access_is_written_the_way_it_is_read() {
        for access in [Access::Read, Access::Write, Access::Admin] {
            assert_eq!(access.to_string().parse(), Ok(access));
        }
        assert!("none".parse::<Access>().is_err());
    }
}
