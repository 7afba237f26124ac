package secrets_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rebearer/rebearer/envoy/secrets"
	"github.com/rebearer/rebearer/tokens"
)

func TestPush(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		orders, stock := f.publisher("orders", "Bearer"), f.publisher("stock", "")
		e := connect("edge-1")
		e.subscribe("rebearer/orders", "rebearer/stock")
		e.wantTaken() // nothing is not an empty secret
		orders(token("o1", 1))
		e.wantTaken("rebearer/orders=Bearer o1")
		stock(token("s1", 1))
		e.wantTaken("rebearer/stock=s1")
		orders(token("o2", 2))
		orders(token("o2", 2)) // told again
		e.wantTaken("rebearer/orders=Bearer o2")

		again := connect("edge-1")
		again.subscribe("rebearer/orders")
		again.wantTaken("rebearer/orders=Bearer o2")
	})
}

func TestOnlyTheNewestReachesASlowEnvoy(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		orders := f.publisher("orders", "")
		slow, quick := connect("slow"), connect("quick")
		slow.set(true, "")
		slow.subscribe("rebearer/orders")
		quick.subscribe("rebearer/orders")
		slow.wantTaken()
		var want []string
		for i := range uint64(20) {
			orders(token(fmt.Sprint("o", i), i+1))
			synctest.Wait()
			want = append(want, fmt.Sprint("rebearer/orders=o", i))
		}
		quick.wantTaken(want...)
		slow.set(false, "")
		slow.subscribe("rebearer/orders")
		synctest.Wait()
		if got := slow.held["rebearer/orders"]; got != "o19" {
			t.Errorf("the slow Envoy holds %q, want the newest", got)
		}
	})
}

func TestTwoNodes(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		orders, stock := f.publisher("orders", ""), f.publisher("stock", "")
		one, two := connect("edge-1"), connect("edge-2")
		one.subscribe("rebearer/orders")
		two.subscribe("rebearer/stock")
		orders(token("o1", 1))
		stock(token("s1", 1))
		one.wantTaken("rebearer/orders=o1")
		two.wantTaken("rebearer/stock=s1")
		one.subscribe("rebearer/stock") // and no longer the other
		one.wantTaken("rebearer/stock=s1")
		orders(token("o2", 2))
		one.wantTaken()
		one.subscribe("rebearer/stock", "rebearer/orders")
		one.wantTaken("rebearer/orders=o2")
	})
}

func TestExpired(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		orders := f.publisher("orders", "")
		before, expired := connect("before"), token("o1", 1)
		before.subscribe("rebearer/orders")
		orders(expired)
		before.wantTaken("rebearer/orders=o1")

		time.Sleep(time.Hour)
		after := connect("after")
		after.subscribe("rebearer/orders")
		after.wantTaken()
		orders(expired)
		expired.Generation++
		orders(expired)
		before.wantTaken()
		after.wantTaken()
		orders(token("o2", 3))
		before.wantTaken("rebearer/orders=o2")
		after.wantTaken("rebearer/orders=o2")
		if got := strings.Count(f.log.String(), "has ended"); got != 1 {
			t.Errorf("%d lines about the end of the token, want 1:\n%s", got, f.log)
		}
	})
}

func TestRenewalKeepsTheNewOne(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		orders := f.publisher("orders", "")
		orders(token("o1", 1))
		time.Sleep(50 * time.Minute)
		orders(token("o2", 2))
		time.Sleep(20 * time.Minute)
		e := connect("edge-1")
		e.subscribe("rebearer/orders")
		e.wantTaken("rebearer/orders=o2")
	})
}

func TestServe(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		f.serve("stock")
		orders, stock := f.publisher("orders", ""), f.publisher("stock", "")
		orders(token("o1", 1))
		stock(token("s1", 1))
		e := connect("edge-1")
		e.subscribe("rebearer/orders", "rebearer/stock")
		e.wantTaken("rebearer/stock=s1")
		f.serve("orders")
		e.wantTaken("rebearer/orders=o1")
		late := connect("edge-2")
		late.subscribe("rebearer/orders", "rebearer/stock")
		late.wantTaken("rebearer/orders=o1")
	})
}

// Envoys are sent what the configuration in use describes: nothing of one that is
// made and refused, and nothing of one that was replaced.
func TestReload(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		e := connect("edge-1")
		e.subscribe("rebearer/orders")
		old := f.publisher("orders", "Bearer")
		old(token("old1", 1))
		e.wantTaken("rebearer/orders=Bearer old1")
		refused := f.Publisher("orders", "Never")
		refused.Publish(token("old1", 1))
		e.wantTaken()
		old(token("old2", 2))
		e.wantTaken("rebearer/orders=Bearer old2")
		fresh := f.publisher("orders", "DPoP")
		old(token("old3", 3))
		e.wantTaken()
		late := connect("edge-2")
		late.subscribe("rebearer/orders")
		late.wantTaken("rebearer/orders=Bearer old2") // which lives yet
		fresh(token("new", 1))
		e.wantTaken("rebearer/orders=DPoP new")
	})
}

// What a configuration that is used later was told before is sent once it is in
// use, and what it has in common with the last one is not sent twice.
func TestReloadOfTheSameToken(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		e := connect("edge-1")
		e.subscribe("rebearer/orders")
		f.publisher("orders", "Bearer")(token("o1", 1))
		e.wantTaken("rebearer/orders=Bearer o1")
		for scheme, want := range map[string][]string{"Bearer": nil, "DPoP": {"rebearer/orders=DPoP o1"}} {
			next := f.Publisher("orders", scheme)
			next.Publish(token("o1", 1))
			f.Serve([]*secrets.Publisher{next})
			e.wantTaken(want...)
			f.serve("orders")
			synctest.Wait()
			e.taken = nil
		}
	})
}

// A token that comes again with a later end, as one from a file does, is given out
// until that.
func TestLongerLife(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		e, orders := connect("edge-1"), f.publisher("orders", "")
		e.subscribe("rebearer/orders")
		for range 3 {
			orders(token("o1", 1))
			time.Sleep(50 * time.Minute)
		}
		late := connect("edge-2")
		late.subscribe("rebearer/orders")
		late.wantTaken("rebearer/orders=o1")
		e.wantTaken("rebearer/orders=o1")
	})
}

// A token that was dropped before its end is given to no Envoy that comes then.
func TestDropped(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		orders := f.publisher("orders", "")
		orders(token("o1", 1))
		orders(token("", 1))
		e := connect("edge-1")
		e.subscribe("rebearer/orders")
		e.wantTaken()
		orders(token("o2", 2))
		e.wantTaken("rebearer/orders=o2")
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := strings.Count(f.log.String(), "has ended"); got != 2 {
			t.Errorf("%d lines about the end of a token, want 2:\n%s", got, f.log)
		}
	})
}

func TestStrangeNames(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		orders := f.publisher("orders", "")
		orders(token("o1", 1))
		for range 2 {
			e := connect("edge-1")
			e.subscribe("*", "default", "rebearer/typo", "rebearer/orders", strings.Repeat("x", 1<<16))
			e.wantTaken("rebearer/orders=o1")
		}
		everything := connect("edge-2")
		everything.subscribe()
		everything.subscribe("*")
		everything.wantTaken()
		for _, name := range []string{"secret=*", "secret=default", "secret=rebearer/typo"} {
			if got := strings.Count(f.log.String(), name); got != 1 {
				t.Errorf("%d lines with %s, want 1", got, name)
			}
		}
		if f.log.Len() > 10_000 {
			t.Errorf("the log has %d bytes", f.log.Len())
		}
		f.serve("orders", "typo") // it is mended
		f.publisher("typo", "")(token("t1", 1))
		e := connect("edge-3")
		e.subscribe("rebearer/typo")
		e.wantTaken("rebearer/typo=t1")
	})
}

func TestTooManyNames(t *testing.T) {
	eachProtocol(t, func(t *testing.T, _ *fixture, connect func(string) *envoyClient) {
		e := connect("edge-1")
		var names []string
		for i := range 1001 {
			names = append(names, fmt.Sprint("rebearer/", i))
		}
		e.subscribe(names...)
		if got := status.Code(e.ended()); got != codes.ResourceExhausted {
			t.Errorf("the stream ended with %v, want ResourceExhausted", e.ended())
		}
	})
}

func TestTooManyStreams(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 10,000 streams")
	}
	eachProtocol(t, func(t *testing.T, _ *fixture, connect func(string) *envoyClient) {
		for range 10_000 {
			connect("edge-1")
		}
		synctest.Wait()
		e := connect("edge-1")
		if got := status.Code(e.ended()); got != codes.ResourceExhausted {
			t.Errorf("the stream ended with %v, want ResourceExhausted", e.ended())
		}
	})
}

func TestStatus(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		begun := time.Now()
		orders := f.publisher("orders", "Bearer")
		orders(token("o1", 1))
		second, first := connect("edge-2"), connect("edge-1")
		first.subscribe("rebearer/orders", "rebearer/stock")
		time.Sleep(time.Minute)
		more := connect("edge-1")
		more.subscribe("rebearer/later")
		second.set(true, "")
		second.subscribe("rebearer/orders")
		synctest.Wait()

		one := tokens.FingerprintOf("o1")
		want := []secrets.NodeStatus{
			{
				Node: "edge-1", Cluster: "edge", Version: "1.40.0", Peer: "bufconn", Since: begun,
				Secrets: []secrets.SecretStatus{{Credential: "later"}, {Credential: "orders", Sent: one, Acknowledged: one}, {Credential: "stock"}},
			},
			{
				Node: "edge-2", Cluster: "edge", Version: "1.40.0", Peer: "bufconn", Since: begun,
				Secrets: []secrets.SecretStatus{{Credential: "orders", Sent: one}},
			},
		}
		if diff := cmp.Diff(want, f.Status()); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
		f.wantMetrics(t, "rebearer_secret_nodes 2", `rebearer_secret_pushes_total{orders} 2`)
		for _, c := range []*envoyClient{first, second, more} {
			c.close()
		}
		synctest.Wait()
		if got := f.Status(); len(got) > 0 {
			t.Errorf("when all are gone the status is %+v", got)
		}
	})
}

func TestNack(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		orders := f.publisher("orders", "Bearer")
		e := connect("edge-1")
		e.subscribe("rebearer/orders")
		orders(token("good", 1))
		synctest.Wait()
		e.set(false, "no room\nlevel=ERROR for "+strings.Repeat("it", 1000))
		orders(token("unwanted", 2))
		e.wantTaken("rebearer/orders=Bearer good", "rebearer/orders=Bearer unwanted") // and not again and again
		got := f.Status()[0].Secrets[0]
		if len(got.Reason) > 256 {
			t.Errorf("the reason has %d bytes", len(got.Reason))
		}
		got.Reason, _, _ = strings.Cut(got.Reason, "\n")
		want := secrets.SecretStatus{
			Credential: "orders", Reason: "no room",
			Sent: tokens.FingerprintOf("unwanted"), Acknowledged: tokens.FingerprintOf("good"), Refused: tokens.FingerprintOf("unwanted"),
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
		again := connect("edge-1")
		again.set(false, "still none")
		again.subscribe("rebearer/orders")
		e.set(false, "")
		orders(token("taken", 3))
		synctest.Wait()
		if got := f.Status()[0].Secrets[0]; got.Refused != "" || got.Acknowledged != tokens.FingerprintOf("taken") {
			t.Errorf("after a token that was taken: %+v", got)
		}
		refusals := slices.DeleteFunc(strings.Split(f.log.String(), "\n"), func(line string) bool { return !strings.Contains(line, "level=ERROR msg=") })
		if len(refusals) != 2 { // of "unwanted" by edge-1, and of "taken" by its second stream
			t.Errorf("%d lines about refusals, want 2:\n%s", len(refusals), f.log)
		}
		f.wantMetrics(t, "rebearer_secret_nacks_total{orders} 3", "rebearer_secret_nodes 1", "rebearer_secret_pushes_total{orders} 5")
	})
}

func TestNackQuotesTheToken(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		const value = "secretvalue0123456789"
		orders := f.publisher("orders", "Bearer")
		e := connect("edge-1")
		e.set(false, `generic_secret {secret {inline_string: "Bearer `+value[:15]+`..."}}`)
		e.subscribe("rebearer/orders")
		orders(token(value, 1))
		synctest.Wait()
		if got := f.Status()[0].Secrets[0].Reason; !strings.HasPrefix(got, "withheld") {
			t.Errorf("reason = %q", got)
		}
		if strings.Contains(f.log.String(), value[:8]) {
			t.Errorf("the log quotes the token:\n%s", f.log)
		}
	})
}

func TestClose(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		orders := f.publisher("orders", "")
		e := connect("edge-1")
		e.subscribe("rebearer/orders")
		orders(token("o1", 1))
		e.wantTaken("rebearer/orders=o1")
		f.Close()
		f.Close()
		if got := status.Code(e.ended()); got != codes.Unavailable {
			t.Errorf("the stream ended with %v, want Unavailable", e.ended())
		}
		orders(token("o2", 2))
		late := connect("edge-1")
		if got := status.Code(late.ended()); got != codes.Unavailable {
			t.Errorf("a new stream ended with %v, want Unavailable", late.ended())
		}
	})
}

// Publishing, connecting and stopping at the same time is for the race detector.
func TestConcurrency(t *testing.T) {
	eachProtocol(t, func(t *testing.T, f *fixture, connect func(string) *envoyClient) {
		orders := f.publisher("orders", "")
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range uint64(200) {
				orders(token(fmt.Sprint("o", i), i+1))
				_ = f.Status()
				if i%50 == 0 {
					f.serve("orders")
				}
			}
		}()
		var all []*envoyClient
		for i := range 20 {
			e := connect(fmt.Sprint("edge-", i%5))
			e.subscribe("rebearer/orders")
			if all = append(all, e); i%3 == 0 {
				e.close()
			}
		}
		<-done
		synctest.Wait()
		for i, e := range all {
			if i%3 != 0 && e.held["rebearer/orders"] != "o199" {
				t.Errorf("Envoy %d holds %q, want the newest", i, e.held["rebearer/orders"])
			}
		}
	})
}
