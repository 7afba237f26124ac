package provider

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-oauth2/oauth2/v4/models"
)

func TestStoreDropsExpired(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newTokenStore()
		for i := range 10 * sweepEvery {
			token := models.NewToken()
			token.SetAccess(fmt.Sprint(i))
			token.SetAccessCreateAt(time.Now())
			token.SetAccessExpiresIn(time.Second)
			if err := store.Create(t.Context(), token); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got := len(store.tokens); got > sweepEvery+100 {
			t.Errorf("%d tokens are kept, although only 100 live", got)
		}
	})
}
