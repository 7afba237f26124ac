package extauthz_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// checklist says which tests show each line of the security checklist that is
// about callers: A is the intake of requests, B what we return, C JWTs and their
// keys, D introspection. Tests are named by their package.
func checklist() map[string][]string {
	return map[string][]string{
		// A message of any kind is denied and never ends the process.
		"A1": {"extauthz.TestUnusableRequests", "extauthz.TestTroubleIsNotTheCallersFault", "extauthz.FuzzCheck"},
		// A message over gRPC's limit is an error to Envoy, which makes a 503 of it.
		"A2": {"extauthz.TestMessageAboveTheLimit", "render.TestServiceDown"},
		// A token that is there twice, in one header or in two.
		"A3": {"extauthz.TestAuthorizationHeader", "extauthz.TestTokenFrom"},
		// Schemes, and places where no token is looked for.
		"A4": {"extauthz.TestAuthorizationHeader", "extauthz.TestTokenFrom"},
		// Size and dots before anything is decoded.
		"A5": {"caller.TestHostileTokensAreCheap", "extauthz.TestAuthorizationHeader"},
		// Bytes that are not UTF-8.
		"A6": {"extauthz.TestAuthorizationHeader", "extauthz.TestTokenFrom", "extauthz.TestCallersTokenIsStripped"},
		// The path decides nothing.
		"A7": {"extauthz.TestPathDecidesNothing"},
		// Neither do headers of the client.
		"A8": {"extauthz.TestOtherHeadersDecideNothing", "extauthz.TestHosts", "extauthz.TestPreflight"},

		// One authorization at the backend, ours.
		"B9": {"extauthz.TestCallersTokenIsStripped", "main.TestBackendSeesOurTokenOnly"},
		// Identity headers of the client never get through.
		"B10": {"extauthz.TestForward", "extauthz.TestAnonymous", "config.TestErrors"},
		// What stands in headers, and that every answer marshals.
		"B11": {"extauthz.TestForwardedValues", "extauthz.TestForwardedTokenIsVisible", "extauthz.FuzzCheckToken"},
		// The backend token is one that a header can hold.
		"B12": {"oauth.TestTokenEndpointCases", "extauthz.TestTroubleIsNotTheCallersFault"},
		// The form of denials.
		"B13": {
			"extauthz.TestNoTokenGetsABareChallenge", "extauthz.TestRefusedTokens", "extauthz.TestRequirements",
			"extauthz.TestTroubleIsNotTheCallersFault", "extauthz.TestFormsOfDenials",
		},
		// Dynamic metadata.
		"B14": {"extauthz.TestMetadata"},
		// What tells one bad token from another; see untested.
		"B15": {"extauthz.TestRefusedTokens"},

		"C16": {"extauthz.TestCheckAttackCases", "extauthz.TestCheckSignatureCases", "caller.FuzzVerify", "caller.FuzzParseCompact", "extauthz.FuzzCheckToken"},
		"C17": {"caller.TestKeyFilters", "caller.TestRSAKeys", "caller.TestAlgorithmsCanBeNarrowed", "extauthz.TestCheckAttackCases", "config.TestErrors"},
		"C18": {"caller.TestRemoteKeyHintsAreNotFollowed"},
		"C19": {"extauthz.TestCheckAttackCases", "caller.TestHeadersAreRefused", "caller.TestHostileTokensAreCheap"},
		"C20": {"extauthz.TestCheckAttackCases", "caller.TestGroup", "caller.TestWhoSeesAToken"},
		"C21": {"oauth.TestJWKSLimits", "caller.TestBadKeySetsDoNotReplaceAGoodOne", "caller.TestFetchHasADeadline"},
		"C22": {"extauthz.TestRandomKeyFlood", "caller.TestFloodOfUnknownKids", "caller.TestRotationDuringAFlood"},
		"C23": {"caller.TestIssuerDown", "extauthz.TestIssuerDownIs503AndRecovers"},
		"C24": {"caller.TestKeyRotation"},
		"C25": {"caller.TestVerifiedTokensEnd", "caller.TestRevocationOrders", "caller.TestSecondFormOfARevokedToken"},
		"C26": {"extauthz.TestCheckAttackCases", "caller.TestClaimsAreRefused"},
		"C27": {"extauthz.TestCheckAttackCases", "caller.TestHeadersAreRefused"},

		"D28": {"extauthz.TestCheckIntrospectionCases", "caller.TestIntrospectionCases", "caller.TestOpaqueTimesAreCheckedOnHits", "extauthz.TestRequirements"},
		"D29": {"caller.TestVerdictsAreNotShared", "caller.TestIntrospectionIsShared"},
		"D30": {"caller.TestFloodOfUnknownTokens", "caller.TestRecentIsBounded"},
		"D31": {"extauthz.TestCheckIntrospectionCases", "caller.TestProviderInTrouble"},
		"D32": {"extauthz.TestCheckIntrospectionCases", "oauth.TestIntrospectionRequest"},
	}
}

// untested says what of a line no test shows, and why.
func untested() map[string]string {
	return map[string]string{
		"A2":  "That a body is refused: Envoy is told to send none, and only named headers (envoy/render).",
		"A7":  "What a backend makes of a path: rebearer does not read it; Envoy normalises it and refuses escaped slashes (envoy/render).",
		"B15": "Time: nothing is looked up for a token but its key, and a test by the clock would fail on a busy machine.",
		"C16": "A comparison with the library: its verdict is a part of ours, since go-jose verifies the signature.",
		"C19": "Milliseconds, for the same reason; that no hostile token is decoded or decompressed shows in what it allocates.",
		"C22": "A whole fleet: every replica has the bound for itself. Replicas share no keys.",
		"C23": "The metric: the log says when a fetch fails and when one succeeds again.",
	}
}

// TestChecklist keeps the list true: it has every line, and every test that it
// names is there.
func TestChecklist(t *testing.T) {
	t.Parallel()
	there := testsOf(t, "..")
	lines := checklist()
	for section, bounds := range map[string][2]int{"A": {1, 8}, "B": {9, 15}, "C": {16, 27}, "D": {28, 32}} {
		for n := bounds[0]; n <= bounds[1]; n++ {
			if line := section + strconv.Itoa(n); len(lines[line]) == 0 {
				t.Errorf("line %s has no test", line)
			}
		}
	}
	for line, names := range lines {
		for _, name := range names {
			if !there[name] {
				t.Errorf("line %s: there is no test %s", line, name)
			}
		}
	}
	for line := range untested() {
		if lines[line] == nil {
			t.Errorf("there is no line %s", line)
		}
	}
}

// testsOf returns the tests and fuzz targets under a folder as package.Name.
func testsOf(t *testing.T, root string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".." {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, declared := range file.Decls {
			if f, ok := declared.(*ast.FuncDecl); ok && f.Recv == nil {
				found[strings.TrimSuffix(file.Name.Name, "_test")+"."+f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
