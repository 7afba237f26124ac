package tokens

import (
	"context"
	"errors"
	"time"
)

const (
	// trialBurst is how many token requests rejections may cause at once.
	trialBurst = 5
	// What a trial must leave in the bucket, by its evidence, so that a restart
	// of the provider always finds something: a single unclear rejection, and a
	// single one that says outright that the token is dead or the only one in
	// its moment. Several in a row may spend the last.
	reserveUnclear = 3
	reserveSingle  = 1
	// returnBurst bounds how many trials that helped are given back, and so
	// what a backend costs that refuses and accepts the same token at random.
	returnBurst = 10
	// freshFor is for how long a token counts as just issued. It must be longer
	// than a retried request takes to come back through Envoy, and shorter than
	// the time between two restarts of a provider. A request that is retried
	// for the second time met a token that was not as fresh as it seemed.
	freshFor      = time.Second
	freshForThird = freshFor / 4
	// surelyFresh is for how long a token that is refused on a retried request
	// was certainly issued after the rejection before that.
	surelyFresh = freshFor / 20
	// holdFor is how long a rejection that may not be tried is held to see
	// whether others come back refused as well.
	holdFor = 150 * time.Millisecond
	// maxHolds is how often one on behalf of a caller is held whose trial the
	// bucket does not pay for: others have begun theirs, which tell of all.
	maxHolds = 7
	// enoughRefused is how many rejections in a row are several where hardly any
	// come as a rule, and enoughOfCallers where each caller has a token of his own:
	// there a share of callers who are not allowed is usual, and costs more to
	// mistake. More than maxEnough are never needed, and fewRefused are no rule.
	enoughRefused   = 4
	enoughOfCallers = 12
	maxEnough       = 64
	fewRefused      = 12
	// maxUsual is the share of rejections above which it does not matter how many
	// are usual: an outage must not become the rule.
	maxUsual = 0.8
	// calmAfter is how many requests, mostly accepted, end the silence after a
	// trial that did not help.
	calmAfter = 10
	// pausedWait is when a caller may ask again whose token is dead while the
	// credential is paused.
	pausedWait = time.Second
	// maxQuiet caps that silence.
	maxQuiet = time.Minute
)

// recovery is what an entry knows of rejections of its current token.
type recovery struct {
	refused time.Time     // the first rejection that the last trial answers
	began   chan struct{} // closed when a trial begins; nil if nobody waits for that
	trial   *trial        // the last token request that a rejection caused
}

// trial is a token request that a rejection caused.
type trial struct {
	refused time.Time // the first rejection that it answers
	several bool      // it was not one that decided
	passed  bool
	failed  bool
}

// handedOut counts a request. Retried ones do not count: they say nothing about
// the share that is refused. Nor do those that waited for a fetch: in a restart
// many do, and their tokens are accepted while those of others are still dead.
func (e *entry) handedOut(attempt int) {
	if attempt <= 1 {
		e.of.share.given.Add(1)
	}
}

// freshOn reports whether a request on the given try may be handed the token.
func (t Token) freshOn(attempt int, now time.Time) bool {
	age := now.Sub(t.Issued)
	switch {
	case attempt <= 1:
		return true
	case attempt == 2:
		return age < freshFor
	}
	return age < freshForThird
}

// suspect returns the fetch of a token for a retried request, which must not be
// given the one that is held: that may be as dead as the one that was refused
// elsewhere. It returns nil if the bucket allows none.
func (e *entry) suspect(now time.Time) *fetch {
	if e.fetching == nil && !e.c().spend(now, reserveSingle) {
		return nil
	}
	return e.begin(now, ReasonSuspect)
}

// begin starts a trial that is paid for. A fetch in flight is made a trial at no
// cost.
func (e *entry) begin(now time.Time, reason Reason) *fetch {
	r := &e.recovery
	if r.began != nil {
		close(r.began)
		r.began = nil
	}
	f := e.fetching
	if f == nil || f.reason == ReasonRenewal {
		r.refused = e.of.share.firstHeld(now)
	}
	switch {
	case f == nil:
		f = e.start(now, reason)
		if e.fetching == nil { // it could not be started
			e.c().giveBack()
			return f
		}
		f.paid = true
	case f.reason != ReasonRenewal:
		return f
	}
	f.reason = reason
	r.trial = &trial{refused: r.refused, several: e.of.share.several(false) || e.of.share.several(true)}
	return f
}

// spend takes a trial from the bucket if that leaves reserve.
func (c *Credential) spend(now time.Time, reserve int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.paused && c.trials.take(now, reserve)
}

func (c *Credential) giveBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trials.giveBack()
}

// Rejected is told of a backend's rejection of a token and answers what to do
// with the request. It may hold the rejection for a moment, and waits for the
// token request that it causes or joins, until ctx ends or the credential's
// timeout is over. On TryAgain a fresh token is in hand.
func (c *Credential) Rejected(ctx context.Context, r Rejection) Outcome {
	began := time.Now()
	o := c.judge(ctx, r)
	if o.Answer == TryAgain && !r.Retriable {
		o = refusal(r, ReasonNotRetriable, 0)
	}
	if r.Unheld && !r.Retriable {
		o.Answer = Pass
	}
	if o.Reason == ReasonRepeated {
		return o
	}
	if o.Answer == Unavailable && c.isPaused() { // no next try can pass
		o.Reason, o.RetryAfter = ReasonPaused, max(o.RetryAfter, pausedWait)
	}
	held := time.Since(began)
	ev := Event{
		Kind: EventRejected, Generation: r.Use.Generation, Fingerprint: r.Fingerprint,
		Reason: o.Reason, Verdict: r.Verdict, Rule: r.Rule, Answer: o.Answer,
		Attempt: r.Attempt, Latency: held, RequestID: r.RequestID,
	}
	c.emit(ev)
	if r.Attempt > 1 && o.Answer != TryAgain {
		ev.Kind, ev.Reason = EventRetried, ReasonAgain
		c.emit(ev)
	}
	return o
}

// refusal is the outcome when no other try can help: what is said to be dead is
// our trouble, and anything else is the backend's own answer.
func refusal(r Rejection, reason Reason, retryAfter time.Duration) Outcome {
	if r.Verdict == Dead {
		return Outcome{Answer: Unavailable, Reason: reason, RetryAfter: retryAfter}
	}
	return Outcome{Answer: Pass, Reason: reason}
}

func (c *Credential) judge(ctx context.Context, r Rejection) Outcome {
	if r.Verdict == NotAllowed {
		return c.notAllowed(r)
	}
	if c.cfg.Action == Observe {
		return Outcome{Reason: ReasonObserve}
	}
	if r.Use.Bypass {
		return c.judgeAlone(r)
	}
	e := c.entryOf(r.Use)
	switch {
	case e == nil && c.cfg.Action == Evict:
		return Outcome{Reason: ReasonNoSubject}
	case e == nil:
		return refusal(r, ReasonNoSubject, 0)
	}
	f, o := e.recover(ctx, r)
	switch {
	case c.cfg.Action == Evict && f != nil:
		return Outcome{Reason: ReasonEvict}
	case c.cfg.Action == Evict:
		return Outcome{Reason: o.Reason}
	case f == nil:
		return o
	}
	token, err := c.wait(ctx, f)
	switch {
	case ctx.Err() != nil:
		return refusal(r, ReasonGone, 0)
	case isSubject(err) && r.Verdict == Dead: // the check tells the caller
		return Outcome{Answer: TryAgain, Reason: ReasonSubject}
	case err != nil:
		return refusal(r, ReasonNoToken, retryAfter(err))
	case token.Fingerprint == r.Fingerprint:
		e.mu.Lock()
		defer e.mu.Unlock()
		e.notHelped(time.Now(), r)
		return refusal(r, ReasonSameToken, c.cfg.CoolDown)
	}
	return Outcome{Answer: TryAgain, Reason: f.reason}
}

// notAllowed passes a rejection that is not about the token. If that was said of a
// fresh one only, nobody knew before that it need not be tried.
func (c *Credential) notAllowed(r Rejection) Outcome {
	e := c.entryOf(r.Use)
	if !r.Repeated || r.Use.Bypass || e == nil {
		return Outcome{Reason: ReasonNotAllowed}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if !e.wasFresh(now, r) {
		return Outcome{Reason: ReasonRepeated}
	}
	r.Verdict = Unclear
	c.silence(now, r)
	return Outcome{Reason: ReasonNotAllowed}
}

// recover returns the fetch to wait for, or nil and what else to do.
func (e *entry) recover(ctx context.Context, r Rejection) (*fetch, Outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.Verdict == Dead && r.Fingerprint == e.current.Fingerprint { // not one that comes late
		e.dead = r.Fingerprint
	}
	f, o := e.weigh(ctx, r)
	if f != nil && r.Verdict == Dead {
		f.dead = r.Fingerprint
	}
	return f, o
}

// weigh is recover with the lock held, but for the time that it holds the
// rejection.
func (e *entry) weigh(ctx context.Context, r Rejection) (*fetch, Outcome) {
	now := time.Now()
	ours := r.Fingerprint == e.current.Fingerprint
	switch {
	case !ours && e.current.aliveAt(now) && e.newer(now, r):
		return nil, Outcome{Answer: TryAgain, Reason: ReasonLate}
	case r.Attempt > 1 && e.wasFresh(now, r):
		e.notHelped(now, r)
		return nil, refusal(r, ReasonAgain, e.c().cfg.CoolDown)
	case r.Repeated:
		return nil, Outcome{Reason: ReasonRepeated}
	case !ours && e.current.aliveAt(now) && e.explains(now, r):
		return nil, Outcome{Answer: TryAgain, Reason: ReasonLate}
	}
	at := e.count(now, r)
	switch {
	case e.fetching != nil:
		return e.begin(now, single(r)), Outcome{}
	case !e.current.aliveAt(now):
		return e.fetchMissing(now), Outcome{}
	case !e.pinned && e.suspected(): // others found out already, and paid
		return e.start(now, ReasonSpread), Outcome{}
	}
	if f := e.try(now, r, ours && e.justIssued(now, r)); f != nil {
		return f, Outcome{}
	}
	return e.hold(ctx, now, r, at)
}

// isCallersOwn reports whether a rejection says nothing of the tokens of others:
// it is of a caller's token, and a fresh one was refused to him a moment ago.
func (e *entry) isCallersOwn(now time.Time, r Rejection) bool {
	return !e.pinned && e.c().isQuiet(now, r.pair())
}

// count counts a rejection among all requests, and returns the point right after
// it.
func (e *entry) count(now time.Time, r Rejection) mark {
	if e.isCallersOwn(now, r) {
		return e.of.share.mark(now)
	}
	return e.of.share.count(now, r.Uncounted)
}

// wasFresh reports whether the token that a retried request was refused with was
// issued after the rejection before that. The check tells how old it was, unless
// the request was sent again without passing the check: then all that is known
// is how old the token is now.
func (e *entry) wasFresh(now time.Time, r Rejection) bool {
	if r.Fingerprint == e.current.Fingerprint && r.Use.Generation != e.current.Generation {
		return now.Sub(e.current.Issued) < freshFor
	}
	return r.Use.Age < surelyFresh
}

// newer reports whether the token that is held is known to be newer than the one
// that was refused: it took its place, or the request was retried and was given
// an older one by another replica.
func (e *entry) newer(now time.Time, r Rejection) bool {
	return e.past.has(r.Fingerprint) || r.Attempt > 1 && e.current.Requested.After(now.Add(-r.Use.Age))
}

// explains reports whether the rejection of a token that this replica never
// issued says nothing against the one it holds: that was just issued, or it was
// requested because of a rejection that came after the refused one was issued.
func (e *entry) explains(now time.Time, r Rejection) bool {
	if now.Sub(e.current.Issued) < freshFor {
		return true
	}
	t := e.recovery.trial
	return t != nil && t.passed && now.Add(-r.Use.Age).Before(t.refused) && !e.current.Requested.Before(t.refused)
}

// single is the reason of a trial on the word of a single rejection.
func single(r Rejection) Reason {
	if r.Verdict == Dead {
		return ReasonDead
	}
	return ReasonProbe
}

// justIssued reports whether the token that is held is too fresh to be tried on
// the word of a single rejection. Where requests are counted, others soon tell.
// Where they are not, nothing else would: only a token that was issued because of
// a rejection is too fresh then.
func (e *entry) justIssued(now time.Time, r Rejection) bool {
	if now.Sub(e.current.Issued) >= freshFor {
		return false
	}
	t := e.recovery.trial
	return !r.Uncounted || t != nil && !e.current.Requested.Before(t.refused)
}

// try begins the trial of a single rejection, if it may have one. A token that
// was just issued is not tried on the word of a single one.
func (e *entry) try(now time.Time, r Rejection, justIssued bool) *fetch {
	if justIssued || e.c().isQuiet(now, r.pair()) {
		return nil
	}
	reserve := reserveUnclear
	if r.Verdict == Dead {
		reserve = reserveSingle
	}
	if !e.c().spend(now, reserve) {
		return nil
	}
	return e.begin(now, single(r))
}

// hold waits, without the lock, for what becomes of other requests, and begins
// a trial if most of them are refused. It returns with the lock held.
func (e *entry) hold(ctx context.Context, now time.Time, r Rejection, at mark) (*fetch, Outcome) {
	rec, share := &e.recovery, &e.of.share
	until, silent := share.quiet(now)
	switch {
	case !r.Uncounted && silent: // a surge passes by itself
		return nil, refusal(r, ReasonQuiet, until.Sub(now))
	case share.several(r.Uncounted):
		if f, o := e.tryProportion(now, r, 0); e.pinned || o.Reason != ReasonBudget {
			return f, o
		}
	}
	if rec.began == nil {
		rec.began = make(chan struct{})
	}
	began := rec.began
	for holds := 1; ; holds++ {
		e.mu.Unlock()
		pause(ctx, began)
		e.mu.Lock()
		f, o := e.release(ctx, r, at)
		if e.pinned || o.Reason != ReasonBudget || holds == maxHolds {
			return f, o
		}
	}
}

// pause waits for a moment, or until a trial begins or ctx ends.
func pause(ctx context.Context, began <-chan struct{}) {
	timer := time.NewTimer(holdFor)
	defer timer.Stop()
	select {
	case <-began:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// release decides what becomes of a rejection that was held.
func (e *entry) release(ctx context.Context, r Rejection, at mark) (*fetch, Outcome) {
	now, share := time.Now(), &e.of.share
	_, silent := share.quiet(now)
	switch {
	case e.fetching != nil:
		return e.fetching, Outcome{}
	case !e.pinned && e.suspected():
		return e.start(now, ReasonSpread), Outcome{}
	case r.Fingerprint != e.current.Fingerprint && e.current.aliveAt(now) && now.Sub(e.current.Issued) < freshFor:
		return nil, Outcome{Answer: TryAgain, Reason: ReasonLate}
	case ctx.Err() != nil:
		return nil, refusal(r, ReasonGone, 0)
	case !r.Uncounted && silent || !share.most(at, r.Uncounted):
		return nil, refusal(r, ReasonQuiet, 0)
	}
	return e.tryProportion(now, r, reserveSingle)
}

// tryProportion begins a trial because most requests come back refused.
func (e *entry) tryProportion(now time.Time, r Rejection, reserve int) (*fetch, Outcome) {
	if e.isCallersOwn(now, r) { // another caller is to try
		return nil, refusal(r, ReasonQuiet, e.c().cfg.CoolDown)
	}
	if !e.c().spend(now, reserve) {
		return nil, refusal(r, ReasonBudget, e.c().nextTrial(now))
	}
	return e.begin(now, ReasonProportion), Outcome{}
}

func (c *Credential) nextTrial(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trials.wait(now)
}

// silence keeps the caller of a rejection from causing trials on its route.
func (c *Credential) silence(now time.Time, r Rejection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quiet.add(r.pair(), now, now.Add(c.cfg.CoolDown))
}

func (c *Credential) isQuiet(now time.Time, pair string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.quiet.has(pair, now)
}

// giveReturn gives a trial back that helped, while that is possible.
func (c *Credential) giveReturn(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.returns.take(now, 0) {
		c.trials.giveBack()
	}
}

// notHelped is told that a request was refused again with a fresh token.
func (e *entry) notHelped(now time.Time, r Rejection) {
	e.c().silence(now, r)
	t := e.recovery.trial
	if t == nil || t.passed || t.failed {
		return
	}
	t.failed = true
	if t.several && e.pinned { // one caller's token says nothing of the others'
		e.of.share.hush(now, e.c().cfg.CoolDown)
	}
}

// Acceptance is a backend's answer to a retried request that is no rejection.
type Acceptance struct {
	// Use is what the check gave the request.
	Use Use
	// Fingerprint is that of the token that the backend accepted.
	Fingerprint Fingerprint
	// Attempt counts the tries of the request from 1.
	Attempt int
	// RequestID is Envoy's x-request-id, for the log.
	RequestID string
}

// Accepted is told that a backend accepted a token on a retried request: the
// rejection before it was about the token. It does not block.
func (c *Credential) Accepted(a Acceptance) {
	if a.Attempt < 2 {
		return
	}
	ev := Event{
		Kind: EventRetried, Generation: a.Use.Generation, Fingerprint: a.Fingerprint,
		Reason: ReasonAccepted, Attempt: a.Attempt, RequestID: a.RequestID,
	}
	c.emit(ev)
	now := time.Now()
	if a.Use.Bypass { // its trial was of its own
		c.giveReturn(now)
		return
	}
	e := c.entryOf(a.Use)
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead == a.Fingerprint {
		e.dead = ""
	}
	t := e.recovery.trial
	if t == nil || t.passed || now.Sub(t.refused) > c.cfg.CoolDown {
		return // Envoy sent the request again for another reason
	}
	t.passed = true
	e.of.share.speak()
	c.giveReturn(now)
	ev.Kind, ev.Latency = EventRecovered, now.Sub(t.refused)
	c.emit(ev)
	if e.confirmed(now, a.Use.Caller) {
		c.h.cache.spread(e.current.Provider, t.refused, e)
	}
}

// judgeAlone decides on the rejection of a token that was fetched for this very
// request: the next try is given another, so nothing is evicted.
func (c *Credential) judgeAlone(r Rejection) Outcome {
	now := time.Now()
	switch {
	case c.cfg.Action == Evict:
		return Outcome{Reason: ReasonEvict}
	case r.Attempt > 1:
		c.silence(now, r)
		return refusal(r, ReasonAgain, c.cfg.CoolDown)
	case r.Verdict != Dead:
		return refusal(r, ReasonAgain, 0)
	case c.isQuiet(now, r.pair()):
		return refusal(r, ReasonQuiet, c.cfg.CoolDown)
	case !c.spend(now, reserveSingle):
		return refusal(r, ReasonBudget, 0) // the next request has a fresh one anyway
	}
	return Outcome{Answer: TryAgain, Reason: ReasonDead}
}

// retryAfter returns what an error says about when to ask again.
func retryAfter(err error) time.Duration {
	var u *UnavailableError
	if errors.As(err, &u) {
		return u.RetryAfter
	}
	return 0
}
