// Package config reads rebearer's configuration file and decides what is
// allowed to run.
//
// # The way of a file
//
// text -> tree -> structs -> checks. The YAML library splits the text and
// parses it (YAML 1.2); this package turns the result into a small tree with
// aliases and merge keys resolved, decodes that into [Config] over the
// defaults, and checks what no type can say. Decoding is done here and not by
// the library because a mistake in this file hands somebody else's token to
// somebody: every value is taken as what it was written as or refused, every
// problem names line, column and key, and all problems of a stage are told at
// once.
//
// # What it refuses
//
//   - a key that it does not know, with the nearest one that it does; also
//     keys of the contract that this version does not implement yet, because
//     a restriction that is silently ignored is a hole. Only top-level keys
//     that start with "x-" are free, as a place for anchors;
//   - a plain value that YAML 1.1 and YAML 1.2 read differently, or that is
//     not text where text is expected (yes, on, 012, 1_000, 12:30): quote it;
//   - a bare number as a duration, a key without a value, a repeated key, a
//     tag, several documents;
//   - files that are large (1 MiB, 50,000 YAML tokens) or expand to much
//     (100,000 values): aliases and nesting cannot make it slow;
//   - a secret in the file itself: secrets come from files;
//   - http:// to anything but loopback, and a gRPC or admin port that others
//     can reach without proof of who they are, unless the file says
//     insecure: true (gRPC) or is given a token (admin);
//   - callers without audiences, symmetric algorithms, policies that name
//     what does not exist;
//   - grants that need a person (password, implicit, authorization code), keys
//     of a client or grant beside a method or grant that does not use them, and
//     tokens on behalf of callers where a request may have no caller;
//   - regular expressions, JSON pointers and presets that are none;
//   - delivery: push where Envoy by itself would check less than rebearer does,
//     or where anybody could ask for the tokens: see [DeliveryPush].
//
// What is legal but worth a word is in [Config.Warnings].
//
// # Invariants
//
// A [Config] that [Load] or [Parse] returned is complete: every default is
// filled in, every reference resolves, file names are joined with the folder
// of the configuration file. Only what another key makes meaningless may be
// inherited from the defaults all the same, such as the grant of a credential
// with a token_file. It holds no secret; [ReadSecret] reads one where it is
// used. It is read-only and safe for concurrent use; the values of one
// may share memory. No error of this package holds a secret's content.
package config
