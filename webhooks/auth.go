package webhooks

import (
	"encoding/base64"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Auth is how the gateway shows a receiver who it is, besides the signature. Type
// says which of the fields count; the others are empty.
type Auth struct {
	Type string `json:"type"` // bearer, basic, header, oauth2

	Token string `json:"token,omitempty"` // bearer

	Username string `json:"username,omitempty"` // basic
	Password string `json:"password,omitempty"`

	Name  string `json:"name,omitempty"` // header: a header of the user's own
	Value string `json:"value,omitempty"`

	// oauth2: the client credentials grant (RFC 6749, 4.4).
	TokenURL     string   `json:"token_url,omitempty"`
	ClientID     string   `json:"client_id,omitempty"`
	ClientSecret string   `json:"client_secret,omitempty"`
	Scopes       []string `json:"scopes,omitempty"`
	Audience     string   `json:"audience,omitempty"`
}

// Types of Auth.
const (
	AuthBearer = "bearer"
	AuthBasic  = "basic"
	AuthHeader = "header"
	AuthOAuth2 = "oauth2"
)

// The limits of Auth.
const (
	maxToken      = 4 << 10
	maxUserName   = 256
	maxPassword   = 1 << 10
	maxClientID   = 512
	maxScopeBytes = 1 << 10 // all scopes together
	maxAudience   = 1 << 10
)

var (
	visiblePattern = regexp.MustCompile(`^[!-~]+$`)       // RFC 6750, 2.1, and what others take for tokens
	clientPattern  = regexp.MustCompile(`^[ -~]+$`)       // VSCHAR of RFC 6749, A
	scopePattern   = regexp.MustCompile(`^[!#-\[\]-~]+$`) // scope-token of RFC 6749, A.4
	authorization  = "authorization"                      // the header of all types but AuthHeader
	authTypes      = []string{AuthBearer, AuthBasic, AuthHeader, AuthOAuth2}
)

// Header is the header that every request to the receiver carries because of a; its
// name is in lower case. ok is false where there is none that is always the same:
// without auth, and with that of oauth2.
func (a *Auth) Header() (name, value string, ok bool) {
	if a == nil {
		return "", "", false
	}
	switch a.Type {
	case AuthBearer:
		return authorization, "Bearer " + a.Token, true
	case AuthBasic:
		return authorization, "Basic " + base64.StdEncoding.EncodeToString([]byte(a.Username+":"+a.Password)), true
	case AuthHeader:
		return strings.ToLower(a.Name), a.Value, true
	default:
		return "", "", false
	}
}

// FetchesTokens tells whether what the receiver is shown has to be fetched first.
func (a *Auth) FetchesTokens() bool { return a != nil && a.Type == AuthOAuth2 }

func (a *Auth) clone() *Auth {
	if a == nil {
		return nil
	}
	c := *a
	c.Scopes = append([]string(nil), a.Scopes...)
	return &c
}

// binds pairs the names of the fields with the places they go to.
func (a *Auth) binds() map[string]any {
	return map[string]any{
		"type": &a.Type, "token": &a.Token, "username": &a.Username, "password": &a.Password,
		"name": &a.Name, "value": &a.Value,
		"token_url": &a.TokenURL, "client_id": &a.ClientID, "client_secret": &a.ClientSecret,
		"scopes": &a.Scopes, "audience": &a.Audience,
	}
}

// checkAuth complains about what is missing, does not fit, or belongs to another
// type, and never repeats it. headers are the webhook's own.
func checkAuth(c *complaints, pointer string, a *Auth, headers map[string]string) {
	if a == nil {
		return
	}
	before := len(c.fields)
	if oneOf(c, pointer+"/type", a.Type, authTypes...); len(c.fields) > before {
		return
	}
	a.checkBelonging(c, pointer)
	name := authorization
	switch a.Type {
	case AuthBearer:
		if len(a.Token) > maxToken || !visiblePattern.MatchString(a.Token) {
			c.add(pointer+"/token", "must be 1 to %d printable ASCII characters without spaces", maxToken)
		}
	case AuthBasic:
		a.checkBasic(c, pointer)
	case AuthHeader:
		if name = strings.ToLower(a.Name); !a.checkHeader(c, pointer) {
			return
		}
	case AuthOAuth2:
		a.checkOAuth2(c, pointer)
	}
	for own := range headers {
		if strings.EqualFold(own, name) {
			c.add(child("/request/headers", own), "is set by auth, too")
		}
	}
}

// checkBelonging complains about fields that belong to another type.
func (a *Auth) checkBelonging(c *complaints, pointer string) {
	for _, f := range []struct {
		name, of string
		given    bool
	}{
		{"token", AuthBearer, a.Token != ""},
		{"username", AuthBasic, a.Username != ""},
		{"password", AuthBasic, a.Password != ""},
		{"name", AuthHeader, a.Name != ""},
		{"value", AuthHeader, a.Value != ""},
		{"token_url", AuthOAuth2, a.TokenURL != ""},
		{"client_id", AuthOAuth2, a.ClientID != ""},
		{"client_secret", AuthOAuth2, a.ClientSecret != ""},
		{"scopes", AuthOAuth2, len(a.Scopes) > 0},
		{"audience", AuthOAuth2, a.Audience != ""},
	} {
		if f.given && f.of != a.Type {
			c.add(pointer+"/"+f.name, "does not belong to this type, but to %s", f.of)
		}
	}
}

func (a *Auth) checkBasic(c *complaints, pointer string) {
	switch {
	case len(a.Username) > maxUserName || strings.Contains(a.Username, ":") || !oneLine(a.Username):
		c.add(pointer+"/username", "must be at most %d bytes of text in one line, without colons", maxUserName)
	case a.Username == "" && a.Password == "":
		c.add(pointer+"/username", "is required where there is no password")
	}
	if len(a.Password) > maxPassword || !oneLine(a.Password) {
		c.add(pointer+"/password", "must be at most %d bytes of text in one line", maxPassword)
	}
}

func oneLine(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, unicode.IsControl)
}

func (a *Auth) checkHeader(c *complaints, pointer string) (named bool) {
	switch {
	case len(a.Name) > maxUserName || !tokenPattern.MatchString(a.Name):
		c.add(pointer+"/name", "is not a legal header name")
	case reserved(strings.ToLower(a.Name)):
		c.add(pointer+"/name", "is a reserved header name")
	default:
		named = true
	}
	if a.Value == "" || len(a.Value) > maxToken || !valuePattern.MatchString(a.Value) {
		c.add(pointer+"/value", "must be 1 to %d printable ASCII characters without spaces at the ends", maxToken)
	}
	return named
}

func (a *Auth) checkOAuth2(c *complaints, pointer string) {
	checkURL(c, pointer+"/token_url", a.TokenURL)
	if len(a.ClientID) > maxClientID || !clientPattern.MatchString(a.ClientID) {
		c.add(pointer+"/client_id", "must be 1 to %d printable ASCII characters", maxClientID)
	}
	if len(a.ClientSecret) > maxPassword || !clientPattern.MatchString(a.ClientSecret) {
		c.add(pointer+"/client_secret", "must be 1 to %d printable ASCII characters", maxPassword)
	}
	size := 0
	for _, scope := range a.Scopes {
		size += len(scope) + 1
		if !scopePattern.MatchString(scope) {
			c.add(pointer+"/scopes", "must be words of printable ASCII without quotes and backslashes")
		}
	}
	if size > maxScopeBytes {
		c.add(pointer+"/scopes", "must be at most %d bytes together", maxScopeBytes)
	}
	if len(a.Audience) > maxAudience || !oneLine(a.Audience) {
		c.add(pointer+"/audience", "must be at most %d bytes of text in one line", maxAudience)
	}
}
